package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/port"
)

// rules allow api.example.com and other.example.com on loopback, but for
// /forbidden.
const rules = `
rules:
  - name: no-forbidden
    match: { hosts: [api.example.com], paths: [/forbidden/**] }
    action: deny
  - name: api
    match: { hosts: [api.example.com, other.example.com, v6.example.com] }
    private: [127.0.0.0/8]
    action: allow
  - name: public-only
    match: { hosts: [inner.example.com, meta.example.com] }
    action: allow
`

func TestInspectAllowsAndRecords(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	r := ask(t, c, "POST /x/y?q=1 HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nhello")
	if r.err != nil || r.StatusCode != 200 || r.text != "hello api.example.com /x/y?q=1" {
		t.Fatalf("%+v", r)
	}
	e := g.event(audit.Exchange, 1)
	want := audit.Event{
		Kind: audit.Exchange, Verdict: "allow", Rule: "api", Mode: "enforce",
		Workload:    audit.Workload{Name: "w1", Cgroup: "/w1", PID: 4711, UID: 1000, Exe: "/usr/bin/client"},
		Flow:        1,
		Dst:         audit.Destination{IP: s.addr.Addr(), Port: s.addr.Port(), Host: "api.example.com"},
		TLS:         audit.TLS{SNI: "api.example.com", ALPN: "http/1.1", Version: "1.3", Handling: "inspect", UpstreamVersion: "1.3"},
		HTTP:        audit.HTTP{Version: "1.1", Method: "POST", Scheme: "https", Host: "api.example.com", Path: "/x/y", Query: "q=1", Status: 200, RequestBytes: 5, ResponseBytes: 30},
		Upstream:    audit.Upstream{Target: fmt.Sprintf("api.example.com:%d", s.addr.Port()), IP: s.addr.Addr(), Attempts: 1},
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Time:        e.Time, Duration: e.Duration,
	}
	if fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
	if e.Duration.Total <= 0 || e.Duration.Upstream <= 0 || e.Duration.Upstream > e.Duration.Total {
		t.Errorf("%+v", e.Duration)
	}
	// Keep-alive and the pool: a second request needs no second connection.
	if r := get(t, c, "api.example.com", "/again"); r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d upstream connections", n)
	}
	c.Close()
	open, closed := g.event(audit.FlowOpen, 1), g.event(audit.FlowClose, 1)
	if open.Verdict != "allow" || open.TLS.Handling != "inspect" || open.TLS.SNI != "api.example.com" {
		t.Errorf("%+v", open)
	}
	if x := closed.Counters; x.Workload.BytesSent == 0 || x.Workload.BytesReceived == 0 || x.Upstream.BytesSent == 0 || x.Upstream.BytesReceived == 0 {
		t.Errorf("%+v", x)
	}
}

func TestRefusalsOverHTTP(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	clear := g.web("api.example.com", "127.0.0.1:0", nil, nil)
	g.know("inner.example.com", netip.MustParseAddr("127.0.0.1"))
	g.know("meta.example.com", netip.MustParseAddr("169.254.169.254"))
	tests := []struct {
		name, host, path string
		status           int
		reason, rule     string
		asked            bool
	}{
		{"deny rule", "api.example.com", "/forbidden/x", 403, "rule_denied", "no-forbidden", true},
		{"no rule", "evil.example.com", "/", 403, "no_rule", "", false},
		{"loopback", "inner.example.com", "/", 403, "address_denied", "public-only", true},
		{"metadata", "meta.example.com", "/", 403, "address_denied", "public-only", true},
		{"ambiguous path", "api.example.com", "/a/../b", 403, "ambiguous_path", "", true},
		{"ambiguous path, encoded", "api.example.com", "/a/%2e%2e/b", 403, "ambiguous_path", "", true},
		{"unknown name", "v6.example.com", "/", 502, "upstream_unreachable", "api", true},
		{"address of nobody", "203.0.113.7", "/", 403, "no_rule", "", false},
		{"odd address", "0x7f.1", "/", 400, "malformed_request", "", false},
	}
	for _, secure := range []bool{true, false} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, secure %t", tt.name, secure), func(t *testing.T) {
				n := len(g.log.all(audit.Exchange))
				dst := clear.dst()
				var c net.Conn
				if secure {
					dst = s.dst()
					sni := tt.host
					if tt.status == 400 || strings.HasPrefix(tt.host, "203") {
						// Names that no client can put into SNI.
						tc := tls.Client(g.dial(1, dst), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
						c = tc
					} else {
						c = g.mustTLS(1, dst, sni)
					}
				} else {
					c = g.dial(1, dst)
				}
				get(t, c, tt.host, tt.path).mustRefuse(t, tt.status, tt.reason)
				e := g.event(audit.Exchange, n+1)
				if e.Verdict != "deny" || e.Reason != tt.reason || e.HTTP.Status != tt.status || tt.rule != "" && e.Rule != tt.rule || e.ID == "" {
					t.Errorf("%+v", e)
				}
				if !tt.asked && g.book.wasAsked(tt.host) {
					t.Error("a name that policy denies was resolved")
				}
			})
		}
	}
	if s.reqs.Load()+clear.reqs.Load() != 0 || s.conns.Load()+clear.conns.Load() != 0 {
		t.Errorf("the upstream was contacted: %d, %d", s.conns.Load(), clear.conns.Load())
	}
}

func TestNamesMustAgree(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	g.secure("other.example.com", nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	get(t, c, "other.example.com", "/").mustRefuse(t, 403, "name_mismatch")
	if r := get(t, c, "API.example.com.", "/"); r.StatusCode != 200 {
		t.Errorf("the same name in another spelling: %+v", r)
	}
	get(t, c, "127.0.0.1", "/").mustRefuse(t, 403, "name_mismatch")
	if e := g.event(audit.Exchange, 1); e.Reason != "name_mismatch" || e.TLS.SNI != "api.example.com" || e.HTTP.Host != "other.example.com" {
		t.Errorf("%+v", e)
	}
}

// SNI of an allowed name sent to another address reaches only the addresses of
// that name.
func TestForeignAddressIsNotContacted(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	foreign := g.raw("", "127.0.0.9:0", func(*net.TCPConn) {})
	// The foreign server has the port on its own address only.
	c := g.mustTLS(1, netip.AddrPortFrom(foreign.addr.Addr(), s.addr.Port()).String(), "api.example.com")
	if r := get(t, c, "api.example.com", "/"); r.err != nil || r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	if foreign.conns.Load() != 0 {
		t.Error("the foreign address was contacted")
	}
	if e := g.event(audit.Exchange, 1); e.Upstream.IP != s.addr.Addr() || e.Dst.IP != foreign.addr.Addr() {
		t.Errorf("%+v", e)
	}
}

// Of several addresses the one that the workload dialled is used.
func TestOwnAddressFirst(t *testing.T) {
	g := newGate(t, rules, nil)
	places := port.Hold(t, "127.0.0.1", "127.0.0.2")
	a := g.webAt("api.example.com", places[0].Listen(), nil, nil)
	b := g.webAt("api.example.com", places[1].Listen(), nil, nil)
	for _, s := range []*site{b, a, b} {
		if r := get(t, g.dial(1, s.dst()), "api.example.com", "/"); r.StatusCode != 200 {
			t.Fatalf("%+v", r)
		}
	}
	if a.reqs.Load() != 1 || b.reqs.Load() != 2 {
		t.Errorf("a %d, b %d", a.reqs.Load(), b.reqs.Load())
	}
}

func TestMalformedIsAnsweredAndClosed(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.web("api.example.com", "127.0.0.1:0", nil, nil)
	for _, req := range []string{
		"GET / HTTP/1.1\nHost: api.example.com\n\n",
		"GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: api.example.com\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : api.example.com\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n",
	} {
		c := g.dial(1, s.dst())
		ask(t, c, req).mustRefuse(t, 400, "malformed_request")
		if _, err := c.Read(make([]byte, 1)); err != io.EOF && !isReset(err) {
			t.Errorf("the connection stays open after %q", req)
		}
	}
	c := g.dial(1, s.dst())
	ask(t, c, "POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").mustRefuse(t, 501, "malformed_request")
	if s.conns.Load() != 0 {
		t.Error("the upstream was contacted")
	}
}

func TestJSONRPCRefusal(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	body := `{"jsonrpc":"2.0","id":7,"method":"tools/call"}`
	r := ask(t, c, fmt.Sprintf("POST /forbidden/rpc HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	if r.err != nil || r.StatusCode != 200 || !strings.Contains(r.text, `"id":7`) || !strings.Contains(r.text, "-32001") || !strings.Contains(r.text, "rule_denied") {
		t.Errorf("%+v", r)
	}
	if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
		t.Errorf("the connection does not go on: %+v", r)
	}
}

func TestReloadTakesEffectAtTheNextRequest(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	g.p.Apply(settings(t, "rules: [ { name: none, match: { hosts: [api.example.com] }, action: deny } ]"))
	get(t, c, "api.example.com", "/").mustRefuse(t, 403, "rule_denied")
	g.p.Apply(settings(t, rules))
	if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
}

func TestUpstreamTLSFaultsAreNamed(t *testing.T) {
	g := newGate(t, rules, nil)
	cert := func(a *authority, name string, change func(*x509.Certificate)) *tls.Certificate {
		c, err := a.leaf(name, change)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, tt := range map[string]struct {
		cert *tls.Certificate
		want string
	}{
		"expired":     {cert(g.internet, "api.example.com", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		"self-signed": {cert(nil, "api.example.com", nil), "self-signed"},
		"wrong name":  {cert(g.internet, "www.example.com", nil), "www.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			s := g.web("", "127.0.0.1:0", tt.cert, nil)
			g.book.mu.Lock()
			g.book.addrs["api.example.com"] = []netip.Addr{s.addr.Addr()}
			g.book.mu.Unlock()
			c := g.mustTLS(1, s.dst(), "api.example.com")
			r := get(t, c, "api.example.com", "/")
			r.mustRefuse(t, 502, "upstream_tls")
			if !strings.Contains(r.text, tt.want) {
				t.Errorf("%s does not say %q", r.text, tt.want)
			}
			if s.reqs.Load() != 0 {
				t.Error("the request reached the upstream")
			}
		})
	}
}

func TestObserveLetsPassAndRecords(t *testing.T) {
	g := newGate(t, "mode: observe\n"+rules, nil)
	s := g.secure("api.example.com", nil)
	g.know("inner.example.com", s.addr.Addr())
	cert, _ := g.internet.leaf("inner.example.com", nil)
	inner := g.web("", "127.0.0.1:0", cert, nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	if r := get(t, c, "api.example.com", "/forbidden/x"); r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	if e := g.event(audit.Exchange, 1); e.Verdict != "would_deny" || e.Reason != "rule_denied" || e.Rule != "no-forbidden" {
		t.Errorf("%+v", e)
	}
	c = g.mustTLS(1, inner.dst(), "inner.example.com")
	if r := get(t, c, "inner.example.com", "/"); r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	if e := g.event(audit.Exchange, 2); e.Verdict != "would_deny" || e.Reason != "address_denied" {
		t.Errorf("%+v", e)
	}
	get(t, c, "api.example.com", "/").mustRefuse(t, 403, "name_mismatch")
}

func TestAuditFailureStopsEverything(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	g.log.fail(errors.New("disk full"))
	get(t, c, "api.example.com", "/").mustRefuse(t, 503, "audit_unavailable")
	get(t, g.mustTLS(1, s.dst(), "api.example.com"), "api.example.com", "/").mustRefuse(t, 503, "audit_unavailable")
	if s.reqs.Load() != 1 {
		t.Error("the upstream was contacted")
	}
	g.log.fail(nil)
	if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
}

func TestPoolIsNotSharedBetweenWorkloads(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	for n := range 4 {
		c := g.mustTLS(uint64(1+n/2), s.dst(), "api.example.com")
		if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
			t.Fatalf("%+v", r)
		}
		g.event(audit.Exchange, n+1) // the connection is back in its pool
		c.Close()
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d upstream connections for two workloads with two connections each, want 2", n)
	}
}

func TestLoopsAreRefusedInEveryMode(t *testing.T) {
	var s *site
	g := newGate(t, "mode: observe\n", func(o *Options) {
		o.Own = own{listener: func(a netip.AddrPort) bool { return a == s.addr }}
	})
	s = g.web("api.example.com", "127.0.0.1:0", nil, nil)
	get(t, g.dial(1, s.dst()), "api.example.com", "/").mustRefuse(t, 403, "address_denied")
	get(t, g.dial(1, s.dst()), "127.0.0.1", "/").mustRefuse(t, 403, "address_denied")
	ask(t, g.dial(1, s.dst()), "CONNECT "+s.dst()+" HTTP/1.1\r\nHost: x\r\n\r\n").mustRefuse(t, 403, "address_denied")
	if s.conns.Load() != 0 {
		t.Error("we contacted ourselves")
	}
}
