package proxy

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
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
	nobody := port.Refusing(t, "127.0.0.1")
	g.know("tunnel.example.com", nobody.Addr())
	_, err := g.dialTLS(1, nobody.String(), "tunnel.example.com")
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

// A server that speaks first is heard at once, not after timeouts.sniff: within
// 50 ms where a rule lets plain TCP through, faster where it does not matter what
// is spoken.
func TestServerSpeaksFirst(t *testing.T) {
	g := newGate(t, "timeouts: { sniff: 60s }\n"+tcpRules+`
  - name: whatever
    match: { cidrs: [127.0.0.6/32] }
    action: allow
    handling: tunnel
`, nil)
	greet := func(c *net.TCPConn) {
		io.WriteString(c, "220 ready\r\n")
		io.Copy(c, c)
	}
	for name, s := range map[string]*site{
		"address, tcp": g.raw("", "127.0.0.7:0", greet),
		"name, tcp":    g.raw("db.example.com", "127.0.0.1:0", greet),
		"any, tunnel":  g.raw("", "127.0.0.6:0", greet),
	} {
		least := time.Hour
		conns := int64(0)
		// On a busy machine one try may take any time.
		for try := 0; try < 20 && least > 50*time.Millisecond; try++ {
			c := g.dial(1, s.dst())
			conns++
			begin := time.Now()
			b := make([]byte, 11)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "220 ready\r\n" {
				t.Fatalf("%s: %q %v", name, b, err)
			}
			least = min(least, time.Since(begin))
			io.WriteString(c, "EHLO x\r\n")
			if _, err := io.ReadFull(c, b[:8]); err != nil || string(b[:8]) != "EHLO x\r\n" {
				t.Errorf("%s: %q %v", name, b, err)
			}
		}
		if least > 50*time.Millisecond {
			t.Errorf("%s: the greeting came after %v", name, least)
		}
		t.Logf("%s: %v", name, least)
		if n := s.conns.Load(); int64(n) != conns {
			t.Errorf("%s: %d connections for %d", name, n, conns)
		}
	}
}

// A name may have an address at which nobody answers. Without us the client
// would go on to the next one; its connection to us stands already.
func TestNextAddressOfTheName(t *testing.T) {
	for _, first := range []string{"server", "client"} {
		g := newGate(t, tcpRules, nil)
		g.know("db.example.com", netip.MustParseAddr("127.0.0.3"))
		s := g.raw("db.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
			if first == "server" {
				io.WriteString(c, "220 ready\r\n")
			}
			io.Copy(c, c)
		})
		c := g.dial(1, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), s.addr.Port()).String())
		want := "\x05hello"
		if first == "server" {
			want = "220 ready\r\n"
		} else {
			io.WriteString(c, want)
		}
		b := make([]byte, len(want))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
			t.Errorf("%s first: %q %v", first, b, err)
		}
		c.CloseWrite()
		if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
			t.Errorf("%s first: %q %v behind", first, rest, err)
		}
		if e := g.event(audit.FlowOpen, 1); e.Rule != "plain-name" || e.Upstream.IP != s.addr.Addr() || e.Dst.IP.String() != "127.0.0.3" {
			t.Errorf("%s first: %+v", first, e)
		}
	}
	// An address without a name stands for itself.
	g := newGate(t, tcpRules, nil)
	s := g.raw("", "127.0.0.1:0", func(*net.TCPConn) {})
	c := g.dial(1, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), s.addr.Port()).String())
	io.WriteString(c, "\x05hello")
	if _, err := c.Read(make([]byte, 1)); !isReset(err) || s.conns.Load() != 0 {
		t.Errorf("%v, %d connections", err, s.conns.Load())
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
	until(t, "the upstream is reached", func() bool { return s.conns.Load() > 0 })
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
	c.SetDeadline(time.Now().Add(5 * time.Minute))
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
