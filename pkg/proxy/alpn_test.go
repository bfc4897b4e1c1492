package proxy

import (
	"crypto/tls"
	"net/http"
	"testing"

	"sallyport/pkg/audit"
)

// front serves HTTPS for any name, whatever the client says in ALPN, as many
// servers do.
func (g *gate) front(host string) *site {
	g.t.Helper()
	cert, err := g.internet.leaf(host, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.reqs.Add(1)
		w.Write([]byte("served " + r.Host))
	})}
	go srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*cert}}))
	g.t.Cleanup(func() { srv.Close() })
	g.know(host, s.addr.Addr())
	return s
}

// The client chooses what stands in ALPN, and many servers answer HTTP whatever
// it is: naming a protocol that is not HTTP must lead nobody past a rule that
// inspects, least of all to another host of the same front.
func TestALPNDoesNotSwitchInspectionOff(t *testing.T) {
	for _, mode := range []string{"enforce", "observe"} {
		g := newGate(t, "mode: "+mode+"\n"+tcpRules, nil)
		s := g.front("api.example.com")
		for _, alpn := range []string{"mqtt", "spdy/1", "h2c"} {
			c, err := g.dialTLS(1, s.dst(), "api.example.com", alpn)
			if err != nil {
				// The certificate is not ours: the workload speaks with the upstream
				// itself, unseen.
				t.Errorf("%s, ALPN %q: %v", mode, alpn, err)
				continue
			}
			get(t, c, "other.example.com", "/fronted").mustRefuse(t, 403, "name_mismatch")
		}
		if n := s.reqs.Load(); n != 0 {
			t.Errorf("%s: %d requests for another host reached the front", mode, n)
		}
		for _, e := range g.log.all(audit.FlowOpen) {
			if e.TLS.Handling != "inspect" {
				t.Errorf("%s, ALPN %q: handling %q", mode, e.TLS.ALPN, e.TLS.Handling)
			}
		}
	}
}

// What is no HTTP passes an inspecting rule all the same, verified under its
// name; a rule that tunnels leaves the client alone with the upstream.
func TestALPNOfOtherProtocols(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	s := g.front("api.example.com")
	c, err := g.dialTLS(1, s.dst(), "api.example.com", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	if p := c.ConnectionState().NegotiatedProtocol; p != "mqtt" {
		t.Errorf("negotiated %q", p)
	}
	if r := get(t, c, "api.example.com", "/x"); r.text != "served api.example.com" {
		t.Errorf("%+v", r)
	}
	tunnelled := g.front("tunnel.example.com")
	c = tls.Client(g.dial(1, tunnelled.dst()), &tls.Config{ServerName: "tunnel.example.com", RootCAs: g.internet.pool(), NextProtos: []string{"mqtt"}})
	if err := c.Handshake(); err != nil {
		t.Errorf("a tunnel was touched: %v", err)
	}
}
