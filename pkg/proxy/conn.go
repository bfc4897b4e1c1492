package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/http2"
	"sallyport/pkg/metrics"
	"sallyport/pkg/origin"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
	"sallyport/pkg/workload"
)

// The phases of a connection, for whoever keeps the timeouts.
const (
	// starting: it does what bounds itself (sniffing, dialling).
	starting uint32 = iota
	// waiting for the next request, bounded by timeouts.idle.
	waiting
	// reading a head or shaking hands, bounded by Limits.Head.
	reading
	// running an exchange or tunnel, bounded by timeouts.stream_idle if at all.
	running
	// stopped: it was interrupted and ends.
	stopped
)

// A conn is one connection of a workload. One goroutine serves it; sweep looks
// at the atomic fields.
type conn struct {
	p      *Proxy
	tcp    *net.TCPConn
	raw    syscall.RawConn
	flow   origin.Flow
	id     workload.Identity
	who    policy.Who
	opened time.Time
	count  *metrics.Workload
	share  *share

	phase atomic.Uint32
	since atomic.Int64 // of the phase, since p.start in ns
	quiet atomic.Int64 // stream_idle of what is running, in ns
	// tunnelled says that a client which has ended its side is not gone.
	tunnelled atomic.Bool
	// left says that it was stopped because the workload is gone.
	left atomic.Bool

	muxes muxes
	// ready is a connection of HTTP/1.1 to the upstream that waits for the first
	// request, nil for none. Only the goroutine that serves looks at it.
	ready *upstream.Conn
	// background are goroutines other than the one that serves.
	background sync.WaitGroup
	// session is what the connection runs in HTTP/2, guarded by mu.
	session *session

	mu  sync.Mutex
	up  inUse
	leg upstream.Leg

	// asked is the target that was asked what it speaks and waits for the first
	// request.
	asked atomic.Pointer[balance.Target]

	held bool      // Standins.Hold gave true
	ours audit.Leg // of the workload's side, as our end counted it

	// ev carries what all events of the connection have in common.
	ev   audit.Event
	open bool // flow_open was written
	work work

	// http is the hop whose requests are to be served next. serve does it, not
	// who found out: sniffing and handshakes need a deep stack, which an idle
	// connection would keep.
	http *hop
}

// serveConn does everything for one accepted connection.
func (p *Proxy) serveConn(tcp *net.TCPConn) {
	defer tcp.Close()
	defer p.rescue(tcp)
	growStack(0)
	c := p.known(tcp)
	if c == nil {
		return
	}
	sh, ok := p.shares.take(c.id.Name, p.Limits.PerWorkload)
	defer p.shares.give(c.id.Name, sh)
	c.share = sh
	if !ok || p.active.Load() > int64(p.Limits.Connections) {
		reset(tcp)
		c.count.FlowRefused(policy.Inspect)
		c.recordCrowded("too many connections are open; the workload must close some")
		return
	}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	p.legs.begin(c.flow.ID)
	c.hold()
	defer p.forget(c)
	c.serve()
	c.background.Wait()
	if c.ready != nil {
		c.ready.Close()
	}
	c.finish()
}

// growStack makes room for a handshake at once, where the goroutine's stack would
// be copied three times, each time with more on it.
//
//go:noinline
func growStack(i int) byte {
	var room [9 << 10]byte
	return room[i]
}

// forget makes sure that nothing of a connection is left, however it ended.
func (p *Proxy) forget(c *conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	p.legs.drop(c.flow.ID)
	c.release()
}

// known is meet for whoever waits until everybody is known.
//
//go:noinline
func (p *Proxy) known(tcp *net.TCPConn) *conn {
	defer p.meeting.Add(-1)
	return p.meet(tcp)
}

// meet finds out who connected and where to; nil where that is the end of it.
// It is not part of serveConn because what it needs on the stack would stay
// there, in every idle connection, for as long as that lives.
//
//go:noinline
func (p *Proxy) meet(tcp *net.TCPConn) *conn {
	flow, err := p.Origin.Flow(tcp)
	if err != nil {
		// Whoever connected here was not redirected by us, or the kernel has
		// lost where it wanted to go: there is no decision to be made.
		reset(tcp)
		p.recordLost(tcp, err)
		return nil
	}
	if p.Probe != nil {
		if answer := p.Probe(&flow); answer != nil {
			tcp.SetDeadline(time.Now().Add(time.Second))
			tcp.Write(answer)
			return nil
		}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		reset(tcp)
		return nil
	}
	id, exe, err := p.Identities.Identify(p.hard, &flow)
	if err != nil {
		reset(tcp)
		p.recordLost(tcp, err)
		return nil
	}
	c := &conn{p: p, tcp: tcp, raw: raw, flow: flow, id: id, opened: time.Now(), count: p.Metrics.Workload(id.Name)}
	c.work.c = c
	c.who = policy.Who{Unit: id.Unit, Container: id.Container, Cgroup: id.Cgroup, UID: flow.UID}
	c.ev = audit.Event{
		Workload: audit.Workload{
			Name: id.Name, Cgroup: id.Cgroup, Unit: id.Unit, Container: id.Container,
			PID: flow.PID, UID: flow.UID, Exe: exe,
		},
		Flow: flow.ID,
		Dst:  audit.Destination{IP: flow.Dst.Addr(), Port: flow.Dst.Port()},
	}
	return c
}

// rescue keeps a mistake of ours in handling one connection from ending all:
// that connection is reset, which lets nothing through.
func (p *Proxy) rescue(tcp *net.TCPConn) {
	if r := recover(); r != nil {
		reset(tcp)
		p.panicked(r)
	}
}

func (p *Proxy) panicked(r any) {
	p.Log.Error("a connection was reset because of an error in sallyport", zap.Any("error", r), zap.Stack("stack"))
}

func (c *conn) serve() {
	if c.flow.Dst.Port() == 53 {
		if c.p.DNS == nil {
			reset(c.tcp)
			c.refuseFlow(c.ownDecision(policy.ProtocolDenied), "DNS over TCP is not served here")
			return
		}
		// The resolver judges and records each question; the connection itself
		// goes nowhere else.
		c.count.FlowOpened(policy.Inspect, policy.Allow)
		defer c.count.FlowClosed()
		c.p.DNS(c.p.hard, c.tcp, &c.flow, &c.id)
		return
	}
	s, err := c.p.Upstream.Sockets().New(c.tcp)
	if err != nil {
		reset(c.tcp)
		return
	}
	c.handle(&hop{
		conn: s,
		addr: c.flow.Dst.Addr(),
		port: c.flow.Dst.Port(),
	})
	for c.http != nil {
		h := c.http
		c.http = nil
		if h.http2 {
			c.serveHTTP2(h)
			continue
		}
		c.serveHTTP(h)
	}
}

// finish closes the connection, waits a moment for the kernel's totals and
// writes flow_close.
func (c *conn) finish() {
	c.measure()
	c.tcp.Close()
	workload, why := c.p.legs.end(c.flow.ID, c.ours)
	c.recordClose(workload, why)
}

// measure keeps what our end of the connection has counted, for as long as it
// is open: what it received, the workload sent.
func (c *conn) measure() {
	t, err := upstream.ReadTotals(c.raw)
	if err != nil {
		return
	}
	c.ours = audit.Leg{BytesSent: t.BytesReceived, BytesReceived: t.BytesSent, Segments: t.Segments, Retransmits: t.Retransmits, RTT: t.RTT}
}

// enter begins a phase.
func (c *conn) enter(phase uint32, now time.Time) bool {
	c.since.Store(int64(now.Sub(c.p.start)))
	for {
		old := c.phase.Load()
		if old == stopped {
			return false
		}
		if c.phase.CompareAndSwap(old, phase) {
			return true
		}
	}
}

// stopIdle ends the connection if no exchange is open on it. One of HTTP/2
// takes no further exchange, and ends after those that are open.
func (c *conn) stopIdle() {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s != nil {
		s.drain()
		return
	}
	if c.phase.CompareAndSwap(waiting, stopped) {
		c.tcp.SetReadDeadline(time.Unix(1, 0))
	}
}

// setSession notes the session that runs, nil for none.
func (c *conn) setSession(s *session) {
	c.mu.Lock()
	c.session = s
	c.mu.Unlock()
}

// interrupt ends whatever the connection does.
func (c *conn) interrupt() {
	c.phase.Store(stopped)
	c.tcp.SetDeadline(time.Unix(1, 0))
	c.interruptUpstream()
}

func (c *conn) interruptUpstream() {
	c.mu.Lock()
	if c.up != nil {
		c.up.Interrupt()
	}
	if c.session != nil {
		c.session.interrupt()
	}
	c.mu.Unlock()
}

// use notes what is in use towards the upstream; nil for nothing. Between the
// two calls it may be interrupted from outside; where the connection was stopped
// while nothing was in use, it is at once.
func (c *conn) use(u inUse) {
	c.mu.Lock()
	c.up = u
	c.mu.Unlock()
	if u != nil && c.phase.Load() == stopped {
		u.Interrupt()
	}
}

// context ends when the proxy stops for good.
func (c *conn) context() context.Context { return c.p.hard }

// A hop is one layer of a connection: the connection itself, or what a CONNECT
// inside it opened.
type hop struct {
	conn   net.Conn
	prefix []byte
	// addr is the address that the workload dialled or wrote in CONNECT;
	// invalid where it wrote a name.
	addr netip.Addr
	port uint16
	// name is the canonical name that the workload gave for this hop (SNI or
	// CONNECT), "" for none. Requests must agree with it.
	name string
	// secure says that conn is what we decrypted.
	secure bool
	// alpn is the protocol that the client named for what we decrypted, where
	// that is not HTTP.
	alpn string
	// http2 says that HTTP/2 is spoken, offer what an upstream is offered for
	// its requests ("" for HTTP/1.1), settings what the upstream said of itself, if
	// it was asked, failed what became of an upstream that was asked already.
	http2    bool
	offer    string
	settings http2.PeerSettings
	failed   *failedDial
	depth    int
}

// host gives the name or address by which the hop is judged: its own name,
// else what our resolver told this workload for the address, else "".
func (c *conn) host(h *hop) string {
	if h.name != "" {
		return h.name
	}
	if h.addr.IsValid() {
		if name, ok := c.p.Resolver.Name(c.id.Name, h.addr); ok {
			return name
		}
	}
	return ""
}

// literal gives the name for a certificate and for requests without Host where
// no name is known.
func (h *hop) literal() string {
	if h.name != "" {
		return h.name
	}
	if h.addr.IsValid() {
		return h.addr.String()
	}
	return ""
}
