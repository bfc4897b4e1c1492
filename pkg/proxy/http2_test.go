package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

const http2Rules = `
rules:
  - name: no-admin
    match: { hosts: [api.example.com], methods: [GET], paths: [/admin/**] }
    action: deny
  - name: web
    match: { hosts: [api.example.com, other.example.com] }
    private: [127.0.0.0/8]
    action: allow
`

// speaking serves HTTPS and offers the protocols.
func (g *gate) speaking(host string, h http.HandlerFunc, protocols ...string) *site {
	g.t.Helper()
	cert, err := g.internet.leaf(host, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.reqs.Add(1)
			if h != nil {
				h(w, r)
				return
			}
			fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, r.URL.RequestURI())
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: protocols},
		Protocols: new(http.Protocols),
	}
	for _, p := range protocols {
		switch p {
		case "h2":
			srv.Protocols.SetHTTP2(true)
		case "http/1.1":
			srv.Protocols.SetHTTP1(true)
		}
	}
	go srv.ServeTLS(ln, "", "")
	g.t.Cleanup(func() { srv.Close() })
	g.know(host, s.addr.Addr())
	return s
}

// client gives a client of HTTP/2 whose connections are captured ones of w1 to
// the site.
func (g *gate) client(s *site, sni string) *http.Client {
	tr := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			tcp, err := g.connect(1, s.dst())
			if err != nil {
				return nil, err
			}
			c := tls.Client(tcp, &tls.Config{ServerName: sni, RootCAs: g.ca.pool(), NextProtos: []string{"h2", "http/1.1"}})
			return c, c.Handshake()
		},
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(true)
	tr.Protocols.SetHTTP2(true)
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func fetch(c *http.Client, req *http.Request) reply {
	resp, err := c.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b), err}
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestALPNIsMirrored(t *testing.T) {
	for _, tt := range []struct {
		client, upstream []string
		want, proto      string
	}{
		{[]string{"h2", "http/1.1"}, []string{"h2", "http/1.1"}, "h2", "HTTP/2.0"},
		{[]string{"http/1.1", "h2"}, []string{"h2", "http/1.1"}, "h2", "HTTP/2.0"},
		{[]string{"h2", "http/1.1"}, []string{"http/1.1"}, "http/1.1", "HTTP/1.1"},
		{[]string{"h2"}, []string{"h2", "http/1.1"}, "h2", "HTTP/2.0"},
		{[]string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1", "HTTP/1.1"},
		{nil, []string{"h2", "http/1.1"}, "", "HTTP/1.1"},
	} {
		t.Run(fmt.Sprint(tt.client, tt.upstream), func(t *testing.T) {
			g := newGate(t, http2Rules, nil)
			s := g.speaking("api.example.com", nil, tt.upstream...)
			for range 2 {
				c, err := g.dialTLS(1, s.dst(), "api.example.com", tt.client...)
				if err != nil {
					t.Fatal(err)
				}
				got := c.ConnectionState().NegotiatedProtocol
				if got != tt.want {
					t.Fatalf("negotiated %q, want %q", got, tt.want)
				}
				if got == "h2" {
					c.Close()
					continue
				}
				if r := get(t, c, "api.example.com", "/x"); r.err != nil || r.text != tt.proto+" api.example.com /x" {
					t.Errorf("%+v", r)
				}
				// The client may have its answer before the connection is given back.
				for deadline := time.Now().Add(30 * time.Second); g.pool.Resources()[0].Entries == 0 && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
			}
			if tt.want != "h2" {
				// The connection on which it was asked what it speaks serves them.
				if n := s.conns.Load(); n != 1 {
					t.Errorf("%d connections to the upstream", n)
				}
				return
			}
			r := fetch(g.client(s, "api.example.com"), request(t, "GET", "https://api.example.com/x?y", nil))
			if r.err != nil || r.text != tt.proto+" api.example.com /x?y" || r.Proto != "HTTP/2.0" {
				t.Errorf("%+v", r)
			}
			want := int64(1)
			if len(tt.client) == 1 {
				want = 2 // the last client offers more, and the upstream could choose otherwise
			}
			if n := s.conns.Load(); n != want {
				t.Errorf("%d connections to the upstream, want %d that all use", n, want)
			}
			e := g.event(audit.Exchange, 1)
			if e.HTTP.Version != "2" || e.HTTP.Path != "/x" || e.HTTP.Query != "y" || e.HTTP.Status != 200 || e.Verdict != "allow" || e.Rule != "web" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestStreamsSideBySide(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	arrived := make(chan struct{})
	var all sync.WaitGroup
	const n = 60
	all.Add(n)
	go func() { all.Wait(); close(arrived) }()
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			return
		}
		all.Done()
		<-arrived // every request is here before any is answered
		io.Copy(w, r.Body)
	}, "h2")
	c := g.client(s, "api.example.com")
	fetch(c, request(t, "GET", "https://api.example.com/first", nil))
	g.event(audit.Exchange, 1)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			body := make([]byte, 1000*i)
			rand.Read(body)
			r := fetch(c, request(t, "POST", fmt.Sprintf("https://api.example.com/%d", i), bytes.NewReader(body)))
			if r.err != nil || r.text != string(body) {
				t.Errorf("%d: %v, %d bytes", i, r.err, len(r.text))
			}
		})
	}
	wg.Wait()
	if s.conns.Load() != 1 {
		t.Errorf("%d connections to the upstream", s.conns.Load())
	}
	until(t, "one event for each", func() bool { return len(g.log.all(audit.Exchange)) == n+1 })
	seen := map[string]bool{}
	for _, e := range g.log.all(audit.Exchange)[1:] {
		seen[e.HTTP.Path] = true
		if want := fmt.Sprint("/", e.HTTP.RequestBytes/1000); e.HTTP.Path != want || e.HTTP.RequestBytes != e.HTTP.ResponseBytes {
			t.Errorf("%s: %d bytes and %d", e.HTTP.Path, e.HTTP.RequestBytes, e.HTTP.ResponseBytes)
		}
	}
	if len(seen) != n {
		t.Errorf("%d different paths", len(seen))
	}
}

func TestRefusedStreams(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", nil, "h2", "http/1.1")
	c := g.client(s, "api.example.com")
	fetch(c, request(t, "GET", "https://api.example.com/admin/x", nil)).mustRefuse(t, 403, "rule_denied")
	r := request(t, "GET", "https://api.example.com/", nil)
	r.Host = "other.example.com"
	fetch(c, r).mustRefuse(t, 403, "name_mismatch")
	// The connection goes on.
	if r := fetch(c, request(t, "GET", "https://api.example.com/fine", nil)); r.err != nil || r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	rpc := request(t, "GET", "https://api.example.com/admin/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":7,"method":"x"}`))
	rpc.Header.Set("Content-Type", "application/json")
	if r := fetch(c, rpc); r.StatusCode != 403 {
		t.Errorf("%+v", r)
	}
	if n := s.reqs.Load(); n != 1 {
		t.Errorf("%d requests reached the upstream", n)
	}
	if n := len(g.log.all(audit.FlowOpen)); n != 1 {
		t.Errorf("%d flows", n)
	}
	evil := g.speaking("evil.example.com", nil, "h2")
	fetch(g.client(evil, "evil.example.com"), request(t, "GET", "https://evil.example.com/", nil)).mustRefuse(t, 403, "no_rule")
	grpc := request(t, "POST", "https://evil.example.com/pkg.Service/Call", strings.NewReader("\x00\x00\x00\x00\x00"))
	grpc.Header.Set("Content-Type", "application/grpc")
	got := fetch(g.client(evil, "evil.example.com"), grpc)
	if got.err != nil || got.StatusCode != 200 || got.Header.Get("Grpc-Status") != "7" || !strings.Contains(got.Header.Get("Grpc-Message"), "evil.example.com") {
		t.Errorf("%+v", got)
	}
	if evil.conns.Load() != 0 || g.book.wasAsked("evil.example.com") {
		t.Error("a refused upstream was contacted")
	}
}

func TestTrailersOfStreams(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Mine"))
	}, "h2")
	req := request(t, "POST", "https://api.example.com/", io.NopCloser(strings.NewReader("body")))
	req.Trailer = http.Header{"X-Mine": {"42"}}
	r := fetch(g.client(s, "api.example.com"), req)
	if r.err != nil || r.text != "body" || r.Trailer.Get("X-Sum") != "42" {
		t.Errorf("%+v", r)
	}
}

// A refused upload leaves its connection good for the next request.
func TestRefusedUpload(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", nil, "h2")
	evil := g.speaking("evil.example.com", nil, "h2")
	c := g.client(evil, "evil.example.com")
	for range 5 {
		fetch(c, request(t, "POST", "https://evil.example.com/", bytes.NewReader(make([]byte, 4<<20)))).mustRefuse(t, 403, "no_rule")
	}
	if n := len(g.log.all(audit.FlowOpen)); n != 1 {
		t.Errorf("%d connections of the client", n)
	}
	_ = s
}
