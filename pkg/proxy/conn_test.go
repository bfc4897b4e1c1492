package proxy

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/origin"
)

// pattern is an endless stream without a short period.
type pattern struct{ n uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n++
		b[i] = byte(p.n * 0x9e3779b97f4a7c15 >> 56)
	}
	return len(b), nil
}

// heap watches how much memory the process takes at most.
type heap struct {
	idle uint64
	peak atomic.Uint64
}

func (h *heap) watch(t testing.TB) {
	runtime.GC()
	read := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapSys - m.HeapReleased + m.StackSys
	}
	h.idle = read()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if now := read(); now > h.peak.Load() {
					h.peak.Store(now)
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
}

func (h *heap) below(t testing.TB, n uint64) {
	t.Helper()
	if p := h.peak.Load(); p > h.idle && p-h.idle > n {
		t.Errorf("%d bytes above idle, want below %d", p-h.idle, n)
	}
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

const tcpRules = `
rules:
  - name: tunnel-name
    match: { hosts: [tunnel.example.com], protocols: [https, tls] }
    private: [127.0.0.0/8]
    action: allow
    handling: tunnel
  - name: plain-name
    match: { hosts: [db.example.com], protocols: [tcp] }
    private: [127.0.0.0/8]
    action: allow
  - name: plain-address
    match: { cidrs: [127.0.0.7/32], protocols: [tcp] }
    action: allow
  - name: web
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
`

func TestNoFlowIsClosedAndCounted(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g.origin.set(c.LocalAddr(), origin.Flow{})
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("%v", err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "flow_lost" || e.Verdict != "deny" {
		t.Errorf("%+v", e)
	}
}

func TestUnknownIdentityIsClosed(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	c := g.dial(0, "127.0.0.7:1")
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("%v", err)
	}
}

func TestRefusedTLS(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	s := g.raw("evil.example.com", "127.0.0.1:0", func(*net.TCPConn) {})
	for _, alpn := range [][]string{nil, {"http/1.1"}, {"h2", "http/1.1"}} {
		c, err := g.dialTLS(1, s.dst(), "evil.example.com", alpn...)
		if err != nil {
			t.Fatalf("ALPN %v: %v", alpn, err)
		}
		get(t, c, "evil.example.com", "/").mustRefuse(t, 403, "no_rule")
	}
	if e := g.event(audit.FlowOpen, 1); e.Verdict != "deny" || e.Reason != "no_rule" {
		t.Errorf("%+v", e)
	}
	_, err := g.dialTLS(1, s.dst(), "evil.example.com", "mqtt")
	if err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("%v", err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "no_rule" || e.TLS.SNI != "evil.example.com" || e.TLS.ALPN != "mqtt" {
		t.Errorf("%+v", e)
	}
	if _, err := g.dialTLS(1, s.dst(), "evil.example.com", "h2"); err == nil || !strings.Contains(err.Error(), "application protocol") {
		t.Errorf("%v", err)
	}
	if s.conns.Load() != 0 || g.book.wasAsked("evil.example.com") {
		t.Error("the upstream was contacted or its name resolved")
	}
}

func TestRefusedOtherIsReset(t *testing.T) {
	g := newGate(t, "timeouts: { sniff: 300ms }\n"+tcpRules, nil)
	s := g.raw("", "127.0.0.8:0", func(*net.TCPConn) {})
	for name, first := range map[string]string{"talks": "\x00\x01binary", "silent": "", "h2c": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		c := g.dial(1, s.dst())
		io.WriteString(c, first)
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.conns.Load() != 0 {
		t.Error("the upstream was contacted")
	}
	until(t, "three events", func() bool { return len(g.log.all(audit.Refused)) == 3 })
}

func TestHostileHello(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	c := g.dial(1, "127.0.0.7:443")
	c.Write([]byte{22, 3, 1, 0, 4, 2, 0, 0, 0})
	var b [7]byte
	if _, err := io.ReadFull(c, b[:]); err != nil || b != [7]byte{21, 3, 3, 0, 2, 2, alertDecodeError} {
		t.Errorf("%v %v", b, err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "malformed_request" {
		t.Errorf("%+v", e)
	}
}

func TestTunnelBySNI(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	s := g.secure("tunnel.example.com", nil)
	// The client speaks with the upstream itself: it sees that certificate.
	c := tls.Client(g.dial(1, s.dst()), &tls.Config{ServerName: "tunnel.example.com", RootCAs: g.internet.pool()})
	if r := get(t, c, "tunnel.example.com", "/x"); r.err != nil || r.text != "hello tunnel.example.com /x" {
		t.Fatalf("%+v", r)
	}
	c.Close()
	open := g.event(audit.FlowOpen, 1)
	if open.Rule != "tunnel-name" || open.TLS.Handling != "tunnel" || open.TLS.SNI != "tunnel.example.com" || open.Upstream.IP != s.addr.Addr() {
		t.Errorf("%+v", open)
	}
	closed := g.event(audit.FlowClose, 1)
	// The client closes with a reset if it has not read all: then our count of
	// its leg may be one too low.
	if x := closed.Counters; x.Upstream.BytesSent == 0 || x.Upstream.BytesSent-x.Workload.BytesSent > 1 {
		t.Errorf("%+v", closed.Counters)
	}
	// Another address than the name's is never contacted.
	foreign := g.raw("", "127.0.0.9:0", func(*net.TCPConn) {})
	c = tls.Client(g.dial(1, netip.AddrPortFrom(foreign.addr.Addr(), s.addr.Port()).String()), &tls.Config{ServerName: "tunnel.example.com", RootCAs: g.internet.pool()})
	if r := get(t, c, "tunnel.example.com", "/x"); r.err != nil || foreign.conns.Load() != 0 {
		t.Errorf("%+v, %d connections to a foreign address", r, foreign.conns.Load())
	}
}

func TestTunnelUpstreamFailure(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	ln.Close()
	g.know("tunnel.example.com", netip.MustParseAddr("127.0.0.1"))
	_, err := g.dialTLS(1, ln.Addr().String(), "tunnel.example.com")
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("%v", err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "upstream_unreachable" || e.Rule != "tunnel-name" {
		t.Errorf("%+v", e)
	}
}

func TestPlainTCP(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	echo := func(c *net.TCPConn) { io.Copy(c, c); c.CloseWrite() }
	byAddr := g.raw("", "127.0.0.7:0", echo)
	byName := g.raw("db.example.com", "127.0.0.1:0", echo)
	for s, rule := range map[*site]string{byAddr: "plain-address", byName: "plain-name"} {
		c := g.dial(1, s.dst())
		io.WriteString(c, "\x05hello")
		c.CloseWrite()
		if b, err := io.ReadAll(c); string(b) != "\x05hello" || err != nil {
			t.Errorf("%s: %q, %v", rule, b, err)
		}
		until(t, rule, func() bool {
			for _, e := range g.log.all(audit.FlowClose) {
				if e.Dst.IP == s.addr.Addr() && e.Counters.Workload.BytesSent == 6 && e.Counters.Upstream.BytesReceived == 6 {
					return true
				}
			}
			return false
		})
	}
	var hosts []string
	for _, e := range g.log.all(audit.FlowOpen) {
		hosts = append(hosts, e.Rule+" "+e.Dst.Host)
	}
	if got := fmt.Sprint(hosts); !strings.Contains(got, "plain-name db.example.com") || !strings.Contains(got, "plain-address ") {
		t.Error(got)
	}
}

// A server that speaks first is heard at once, not after timeouts.sniff.
func TestServerSpeaksFirst(t *testing.T) {
	g := newGate(t, "timeouts: { sniff: 60s }\n"+tcpRules, nil)
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) {
		io.WriteString(c, "220 ready\r\n")
		io.Copy(c, c)
	})
	c := g.dial(1, s.dst())
	begin := time.Now()
	b := make([]byte, 11)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "220 ready\r\n" {
		t.Fatalf("%q %v", b, err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the greeting came after %v", took)
	}
	io.WriteString(c, "EHLO x\r\n")
	if _, err := io.ReadFull(c, b[:8]); err != nil || string(b[:8]) != "EHLO x\r\n" {
		t.Errorf("%q %v", b, err)
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A client that is slow to speak TLS or HTTP is judged by what it says, also
// where plain TCP to that address is allowed.
func TestWaitingGainsNoOtherJudgement(t *testing.T) {
	g := newGate(t, `
timeouts: { sniff: 300ms }
rules:
  - name: no-http
    match: { cidrs: [127.0.0.7/32], protocols: [http, https] }
    action: deny
  - name: plain
    match: { cidrs: [127.0.0.7/32], protocols: [tcp] }
    action: allow
`, nil)
	got := make(chan string, 4)
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	c := g.dial(1, s.dst())
	time.Sleep(600 * time.Millisecond)
	get(t, c, "127.0.0.7", "/").mustRefuse(t, 403, "rule_denied")
	if b := <-got; b != "" {
		t.Errorf("the upstream got %q", b)
	}
}

func TestTunnelBigAndHalfClose(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	g := newGate(t, tcpRules, nil)
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) {
		h := sha256.New()
		n, _ := io.Copy(h, c)
		fmt.Fprintf(c, "%d %x\n", n, h.Sum(nil))
		io.CopyN(c, &pattern{}, size)
	})
	c := g.dial(1, s.dst())
	c.SetDeadline(time.Now().Add(time.Minute))
	var peak heap
	peak.watch(t)
	h := sha256.New()
	go func() {
		io.CopyN(c, &pattern{}, size)
		c.CloseWrite()
	}()
	io.CopyN(h, &pattern{}, size)
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	if err != nil || line != fmt.Sprintf("%d %x\n", size, h.Sum(nil)) {
		t.Fatalf("%q %v", line, err)
	}
	got := sha256.New()
	if n, err := io.Copy(got, br); n != size || err != nil || string(got.Sum(nil)) != string(h.Sum(nil)) {
		t.Errorf("%d %v", n, err)
	}
	peak.below(t, 64<<20)
}

// A tunnel whose upstream is killed ends with a reset, not with a clean end.
func TestTunnelTruncationIsVisible(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		io.WriteString(c, "part")
		time.Sleep(50 * time.Millisecond)
		c.SetLinger(0)
	})
	c := g.dial(1, s.dst())
	io.WriteString(c, "\x01")
	if b, err := io.ReadAll(c); !isReset(err) {
		t.Errorf("%q %v", b, err)
	}
}

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

func TestRejectedCertificateIsRecorded(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		n := len(g.log.all(audit.TLSRejected))
		c := tls.Client(g.dial(1, s.dst()), &tls.Config{ServerName: "api.example.com", RootCAs: g.internet.pool(), MaxVersion: version})
		if err := c.Handshake(); err == nil {
			t.Fatal("trusted")
		}
		e := g.event(audit.TLSRejected, n+1)
		if e.TLS.SNI != "api.example.com" || e.Dst.Host != "api.example.com" || !strings.Contains(e.Message, "handling: tunnel") || e.Workload.Name != "w1" {
			t.Errorf("%+v", e)
		}
	}
}

// TLS that names no protocol and carries none that we know passes where the
// connection itself is allowed, verified all the same.
func TestOpaqueWithinTLS(t *testing.T) {
	g := newGate(t, rules, nil)
	cert, err := g.internet.leaf("api.example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	ln, s := g.listen("127.0.0.1:0")
	defer ln.Close()
	g.know("api.example.com", s.addr.Addr())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}})
				defer t.Close()
				io.WriteString(t, "* OK ready\r\n")
				io.Copy(t, t)
			}()
		}
	}()
	g.p.Apply(settings(t, `
rules:
  - name: imaps
    match: { hosts: [api.example.com], protocols: [tls] }
    private: [127.0.0.0/8]
    action: allow
  - name: web
    match: { hosts: [api.example.com], paths: [/x] }
    private: [127.0.0.0/8]
    action: allow
`))
	c, err := g.dialTLS(1, s.dst(), "api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "* OK ready\r\n" {
		t.Fatalf("%q %v", b, err)
	}
	io.WriteString(c, "\x01echo")
	if _, err := io.ReadFull(c, b[:5]); err != nil || string(b[:5]) != "\x01echo" {
		t.Errorf("%q %v", b, err)
	}
}

func TestWithoutSNI(t *testing.T) {
	g := newGate(t, `
rules:
  - name: by-address
    match: { cidrs: [127.0.0.1/32], protocols: [https] }
    action: allow
  - name: by-name
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
`, nil)
	cert, err := g.internet.leaf("127.0.0.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := g.web("", "127.0.0.1:0", cert, nil)
	c, err := g.dialTLS(1, s.dst(), "127.0.0.1", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	if r := get(t, c, s.dst(), "/x"); r.err != nil || r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	if e := g.event(audit.Exchange, 1); e.Rule != "by-address" || e.TLS.SNI != "" {
		t.Errorf("%+v", e)
	}
}

func TestBoundsOfConnections(t *testing.T) {
	g := newGate(t, tcpRules, func(o *Options) { o.Limits.Connections, o.Limits.PerWorkload = 6, 2 })
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) { io.Copy(c, c) })
	open := func(w uint64) error {
		c := g.dial(w, s.dst())
		if _, err := io.WriteString(c, "\x01"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	for w := uint64(1); w <= 3; w++ {
		for range 2 {
			if err := open(w); err != nil {
				t.Fatal(err)
			}
		}
		if err := open(w); !isReset(err) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("beyond the share of w%d: %v", w, err)
		}
		until(t, "the refused connection is gone", func() bool { return g.p.active.Load() == int64(2*w) })
	}
	if err := open(4); !isReset(err) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("beyond all places: %v", err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "overloaded" || e.Workload.Name != "w1" {
		t.Errorf("%+v", e)
	}
	if r := g.p.Resources()[0]; r.Name != "connections" || r.Capacity != 6 || r.Entries < 6 {
		t.Errorf("%+v", r)
	}
}

func TestKernelTotalsReachFlowClose(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) { io.Copy(c, c) })
	g.p.FlowClosed(12345, audit.Leg{BytesSent: 1}) // nobody's
	c := g.dial(1, s.dst())
	io.WriteString(c, "\x01")
	io.ReadFull(c, make([]byte, 1))
	open := g.event(audit.FlowOpen, 1)
	c.Close()
	time.Sleep(20 * time.Millisecond)
	g.p.FlowClosed(open.Flow, audit.Leg{BytesSent: 77, BytesReceived: 78})
	if e := g.event(audit.FlowClose, 1); e.Counters.Workload.BytesSent != 77 || e.Counters.Workload.BytesReceived != 78 {
		t.Errorf("%+v", e.Counters)
	}
	// Where they never come, ours stand in for them.
	c = g.dial(1, s.dst())
	io.WriteString(c, "\x01")
	io.ReadFull(c, make([]byte, 1))
	c.Close()
	if e := g.event(audit.FlowClose, 2); e.Counters.Workload.BytesSent != 1 {
		t.Errorf("%+v", e.Counters)
	}
}

func TestSelfProbeIsAnswered(t *testing.T) {
	g := newGate(t, tcpRules, func(o *Options) {
		o.Probe = func(f *origin.Flow) []byte {
			if f.Cgroup == 99 {
				return []byte(f.Dst.String())
			}
			return nil
		}
	})
	c := g.dial(99, "192.0.2.1:9")
	if b, err := io.ReadAll(c); string(b) != "192.0.2.1:9" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

// A mistake of ours costs one connection, not the worker.
func TestPanicCostsOneConnection(t *testing.T) {
	g := newGate(t, tcpRules, func(o *Options) {
		o.Probe = func(f *origin.Flow) []byte {
			if f.Cgroup == 13 {
				panic("a bug")
			}
			return nil
		}
	})
	s := g.raw("", "127.0.0.7:0", func(c *net.TCPConn) { io.Copy(c, c) })
	if _, err := g.dial(13, s.dst()).Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("%v", err)
	}
	c := g.dial(1, s.dst())
	io.WriteString(c, "\x01")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	c.Close()
	until(t, "all connections are gone", func() bool { return g.p.active.Load() == 0 })
}
