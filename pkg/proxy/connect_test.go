package proxy

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"sallyport/pkg/audit"
)

func TestConnect(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	clear := g.web("other.example.com", "127.0.0.1:0", nil, nil)
	const proxyAddr = "203.0.113.9:3128"
	port := s.addr.Port()
	tunnel := func(c net.Conn, target string) {
		t.Helper()
		r := ask(t, c, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
		if r.err != nil || r.StatusCode != 200 || r.Header.Get("Content-Length") != "" {
			t.Fatalf("%+v", r)
		}
	}
	c := g.dial(1, proxyAddr)
	tunnel(c, fmt.Sprintf("api.example.com:%d", port))
	tc := tls.Client(c, &tls.Config{ServerName: "api.example.com", RootCAs: g.ca.pool(), NextProtos: []string{"http/1.1"}})
	if r := get(t, tc, "api.example.com", "/x"); r.err != nil || r.text != "hello api.example.com /x" {
		t.Fatalf("%+v", r)
	}
	get(t, tc, "api.example.com", "/forbidden/x").mustRefuse(t, 403, "rule_denied")
	if e := g.event(audit.Exchange, 1); e.HTTP.Method != "CONNECT" || e.Verdict != "allow" || e.Dst.Host != "api.example.com" || e.Dst.Port != port {
		t.Errorf("%+v", e)
	}
	// In clear inside CONNECT.
	c = g.dial(1, proxyAddr)
	tunnel(c, fmt.Sprintf("other.example.com:%d", clear.addr.Port()))
	if r := get(t, c, "other.example.com", "/y"); r.text != "hello other.example.com /y" {
		t.Errorf("%+v", r)
	}
	get(t, c, "api.example.com", "/y").mustRefuse(t, 403, "name_mismatch")
	// Another name inside than in CONNECT.
	c = g.dial(1, proxyAddr)
	tunnel(c, fmt.Sprintf("api.example.com:%d", port))
	tc = tls.Client(c, &tls.Config{ServerName: "other.example.com", RootCAs: g.ca.pool()})
	if err := tc.Handshake(); err == nil {
		t.Error("a server name other than that of CONNECT was served")
	}
	// Refused targets.
	for target, want := range map[string]string{
		"evil.example.com:443":     "no_rule",
		"203.0.113.5:443":          "no_rule",
		"169.254.169.254:80":       "no_rule",
		"[::ffff:127.0.0.77]:8080": "no_rule",
	} {
		r := ask(t, g.dial(1, proxyAddr), "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
		if r.StatusCode != 403 && r.StatusCode != 400 {
			t.Errorf("%s: %+v, want %s", target, r, want)
		}
	}
	if g.book.wasAsked("evil.example.com") {
		t.Error("a denied name was resolved")
	}
	// Nested CONNECT is bounded.
	c = g.dial(1, proxyAddr)
	for range 3 {
		tunnel(c, fmt.Sprintf("api.example.com:%d", port))
	}
	r := ask(t, c, fmt.Sprintf("CONNECT api.example.com:%d HTTP/1.1\r\nHost: x\r\n\r\n", port))
	r.mustRefuse(t, 403, "protocol_denied")
}

// CONNECT to a listed name at a forbidden address leads nowhere.
func TestConnectToForbiddenAddress(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.raw("inner.example.com", "127.0.0.1:0", func(*net.TCPConn) {})
	c := g.dial(1, "203.0.113.9:3128")
	r := ask(t, c, fmt.Sprintf("CONNECT inner.example.com:%d HTTP/1.1\r\nHost: x\r\n\r\n", s.addr.Port()))
	if r.StatusCode == 200 {
		tc := tls.Client(c, &tls.Config{ServerName: "inner.example.com", RootCAs: g.ca.pool(), NextProtos: []string{"http/1.1"}})
		get(t, tc, "inner.example.com", "/").mustRefuse(t, 403, "address_denied")
	} else {
		r.mustRefuse(t, 403, "address_denied")
	}
	if s.conns.Load() != 0 {
		t.Error("a forbidden address was contacted")
	}
}

func TestAbsoluteForm(t *testing.T) {
	g := newGate(t, rules, nil)
	clear := g.web("other.example.com", "127.0.0.1:0", nil, nil)
	s := g.secure("api.example.com", nil)
	c := g.dial(1, "203.0.113.9:3128")
	r := ask(t, c, fmt.Sprintf("GET http://other.example.com:%d/x HTTP/1.1\r\nHost: ignored.example.com\r\n\r\n", clear.addr.Port()))
	if r.err != nil || r.text != fmt.Sprintf("hello other.example.com:%d /x", clear.addr.Port()) {
		t.Fatalf("%+v", r)
	}
	r = ask(t, c, fmt.Sprintf("GET https://api.example.com:%d/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", s.addr.Port()))
	if r.err != nil || r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	ask(t, c, fmt.Sprintf("GET https://api.example.com:%d/forbidden/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", s.addr.Port())).mustRefuse(t, 403, "rule_denied")
	ask(t, c, "GET http://evil.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n").mustRefuse(t, 403, "no_rule")
	ask(t, c, "GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: api.example.com\r\n\r\n").mustRefuse(t, 403, "no_rule")
	if g.book.wasAsked("evil.example.com") || g.book.wasAsked("ignored.example.com") {
		t.Error("a name that decides nothing was resolved")
	}
}
