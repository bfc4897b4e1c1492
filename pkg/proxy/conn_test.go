package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/origin"
)

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
	c.SetDeadline(time.Now().Add(30 * time.Second))
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
	for _, alpn := range [][]string{nil, {"http/1.1"}} {
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
	if s.conns.Load() != 0 || g.book.wasAsked("evil.example.com") {
		t.Error("the upstream was contacted or its name resolved")
	}
}

func TestRefusedOtherIsReset(t *testing.T) {
	g := newGate(t, "timeouts: { sniff: 300ms }\n"+tcpRules, nil)
	s := g.raw("", "127.0.0.8:0", func(*net.TCPConn) {})
	for name, first := range map[string]string{"talks": "\x00\x01binary", "silent": ""} {
		c := g.dial(1, s.dst())
		_, werr := io.WriteString(c, first)
		// Whoever is late to speak may have been reset for being silent, and is told by
		// the write.
		if _, err := c.Read(make([]byte, 1)); !isReset(err) && !isReset(werr) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.conns.Load() != 0 {
		t.Error("the upstream was contacted")
	}
	until(t, "two events", func() bool { return len(g.log.all(audit.Refused)) == 2 })
}

// alertUnexpectedMessage is for a handshake that begins with something else than
// a ClientHello (RFC 8446 section 6.2).
const alertUnexpectedMessage = 10

func TestHostileHello(t *testing.T) {
	g := newGate(t, tcpRules, nil)
	c := g.dial(1, "127.0.0.7:443")
	c.Write([]byte{22, 3, 1, 0, 4, 2, 0, 0, 0})
	var b [7]byte
	if _, err := io.ReadFull(c, b[:]); err != nil || b != [7]byte{21, 3, 3, 0, 2, 2, alertUnexpectedMessage} {
		t.Errorf("%v %v", b, err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "malformed_request" {
		t.Errorf("%+v", e)
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
	until(t, "the kernel's totals are waited for", func() bool { return g.p.legs.len() > 0 })
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
