// Package proxy takes the captured connections of workloads one by one:
// accept, origin, sniff, decide, handle. Whatever is not clearly allowed ends
// here, before an upstream is contacted, with a refusal that says why.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/http1"
	"sallyport/pkg/http2"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
	"sallyport/pkg/sniff"
	"sallyport/pkg/upstream"
)

// Options are what a Proxy works with. All but those marked are required.
type Options struct {
	Origin     Origin
	Identities Identities
	Resolver   Resolver
	Leaves     Leaves
	Audit      Audit
	Own        Own
	Metrics    *metrics.Metrics
	Upstream   *upstream.Pool
	Log        *zap.Logger
	// DNS serves connections to port 53; nil refuses them.
	DNS DNS
	// Probe answers flows of the self-probe; nil knows none.
	Probe Probe
	// Standins may be nil where no name leaves by an upstream proxy.
	Standins Standins
	Limits   Limits
}

// Limits bound what the proxy holds. Zero values are the defaults.
type Limits struct {
	// Connections is how many workloads' connections are open at once (8192).
	// Beyond, a new one is reset and counted as overloaded.
	Connections int
	// PerWorkload is the share of one workload (half of Connections).
	PerWorkload int
	// Streams is how many exchanges of HTTP/2 are open at once (16384), half of
	// them of one workload at most. Beyond, a new one is refused as unprocessed,
	// which clients try again, and counted as overloaded.
	Streams int
	// Head bounds the time from the first byte of a request to the end of its
	// head, and that of a TLS handshake (30 s).
	Head time.Duration
	// Nesting is how many CONNECTs may lie inside each other (3).
	Nesting int
}

func (l Limits) withDefaults() Limits {
	if l.Connections <= 0 {
		l.Connections = 8192
	}
	if l.PerWorkload <= 0 {
		l.PerWorkload = max(l.Connections/2, 1)
	}
	if l.Streams <= 0 {
		l.Streams = 16384
	}
	if l.Head <= 0 {
		l.Head = 30 * time.Second
	}
	if l.Nesting <= 0 {
		l.Nesting = 3
	}
	return l
}

// Settings are what a reload replaces. They are not changed after Apply.
type Settings struct {
	Policy *policy.Policy
	// Pipelines are the stages of the rules, by their place from 0.
	Pipelines []*exchange.Pipeline
	// Balance is what the rules do about targets and retries, by their place.
	Balance  balance.Rules
	Timeouts config.Timeouts
	// Proxies are those that decisions name.
	Proxies map[*config.UpstreamProxy]*upstream.Proxy
	// Certificates are what upstreams are shown, by the block of the rule.
	Certificates map[*config.UpstreamTLS]*upstream.ClientCertificate
	// TunnelPinned is tls.on_pinned: tunnel.
	TunnelPinned bool
}

// A Proxy serves the connections of workloads.
type Proxy struct {
	Options
	settings atomic.Pointer[Settings]
	// tls is our side towards clients of HTTP/1.1, tlsBoth towards those that
	// may have HTTP/2.
	tls, tlsBoth *tls.Config
	codec        http1.Codec
	http2        http2.Codec
	exchanges    exchange.Pool
	sniffer      sniff.Sniffer
	tickets      tickets
	pinned       pinned
	buffers      sync.Pool
	start        time.Time

	active atomic.Int64
	// refusedBodies and keptBodies count bytes, streams exchanges of HTTP/2,
	// repeats requests that are repeated apart.
	refusedBodies, keptBodies, streams, repeats atomic.Int64

	// draining is set from the end of accepting on, yielding where somebody else
	// accepts then. accepting counts listeners, meeting the connections of which it
	// is not yet known whose they are.
	draining, yielding atomic.Bool
	accepting, meeting atomic.Int64
	lost               burst
	crowded            burst
	shares             shares
	legs               legs

	mu    sync.Mutex
	conns map[*conn]struct{}
	// hard ends when running exchanges have had their time to drain.
	hard context.Context
	kill context.CancelFunc
}

// New makes a proxy with these settings. It starts nothing: Run keeps the
// timeouts, Serve accepts.
func New(o Options, s *Settings) (*Proxy, error) {
	if o.Origin == nil || o.Identities == nil || o.Resolver == nil || o.Leaves == nil || o.Audit == nil ||
		o.Own == nil || o.Metrics == nil || o.Upstream == nil || o.Log == nil || s == nil {
		return nil, errors.New("proxy: an option is missing")
	}
	o.Limits = o.Limits.withDefaults()
	p := &Proxy{Options: o, start: time.Now(), conns: make(map[*conn]struct{})}
	p.settings.Store(s)
	p.tls, p.tlsBoth = serverConfig(o.Leaves, http11), serverConfig(o.Leaves, h2, http11)
	p.buffers.New = func() any { b := make([]byte, relayBuffer); return &b }
	p.hard, p.kill = context.WithCancel(context.Background())
	return p, nil
}

// Apply makes s hold for the next request of every connection.
func (p *Proxy) Apply(s *Settings) { p.settings.Store(s) }

// Run keeps the timeouts of open connections until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	timer := time.NewTimer(p.pace())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			p.sweep(time.Now())
			timer.Reset(p.pace())
		}
	}
}

// Serve accepts connections from ln until ctx ends; then it closes ln, lets
// running exchanges go on for timeouts.drain, ends them, and returns when the
// last one is gone. An error is that of ln.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener) error {
	var served sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	err := p.accept(ctx, ln, &served)
	stop()
	ln.Close()
	p.drain(&served)
	return err
}

// ServeWhile is Serve for a listener that is given up before the others: when
// open ends it accepts no more, and leaves its connections to end as they would.
// It returns when the last one is gone.
func (p *Proxy) ServeWhile(ctx, open context.Context, ln net.Listener) error {
	var served sync.WaitGroup
	stop := context.AfterFunc(open, func() { ln.Close() })
	err := p.accept(open, ln, &served)
	stop()
	ln.Close()
	gone := make(chan struct{})
	go func() {
		served.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		p.drain(&served)
		<-gone
	}
	return err
}

func (p *Proxy) accept(ctx context.Context, ln net.Listener, served *sync.WaitGroup) error {
	p.accepting.Add(1)
	defer p.accepting.Add(-1)
	pause := time.Duration(0)
	for last := false; !last; {
		c, err := ln.Accept()
		last = ctx.Err() != nil
		switch {
		case last && err != nil:
			return nil
		case last && !p.yielding.Load():
			reset(c)
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// EMFILE and the like: whoever waits in the queue is served when
			// descriptors come back.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			p.Log.Warn("accept failed", zap.Error(err), zap.Duration("pause", pause))
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			last = false
			continue
		}
		pause = 0
		tcp, ok := c.(*net.TCPConn)
		// The second bound leaves room to tell each connection beyond the
		// first one's workload; it keeps a flood from costing a goroutine each.
		if !ok || p.active.Load() >= int64(p.Limits.Connections)+int64(p.Limits.Connections/8)+8 {
			reset(c)
			if n, due := p.crowded.hit(time.Now()); due {
				p.recordCrowded(n)
			}
			continue
		}
		p.active.Add(1)
		p.meeting.Add(1)
		served.Go(func() {
			defer p.active.Add(-1)
			p.serveConn(tcp)
		})
	}
	return nil
}

// drain waits for the connections of one listener.
func (p *Proxy) drain(served *sync.WaitGroup) {
	p.draining.Store(true)
	done := make(chan struct{})
	go func() {
		served.Wait()
		close(done)
	}()
	limit := p.settings.Load().Timeouts.Drain
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	idle := time.Now()
	if p.yielding.Load() {
		idle = idle.Add(time.Duration(float64(limit) * idleShare))
	}
	var end time.Time
	for {
		if time.Now().Before(idle) {
			p.each((*conn).drainSession)
		} else {
			p.each((*conn).stopIdle)
		}
		select {
		case <-done:
			return
		case <-timer.C:
			p.kill()
			end = time.Now()
			if limit > 0 {
				end = end.Add(endTime)
			}
		case <-tick.C:
		}
		switch {
		case end.IsZero():
			// The other listener's time may be over first.
			if p.hard.Err() != nil {
				end = time.Now().Add(endTime)
			}
		case time.Now().Before(end):
			// What comes from upstream ends first, so that clients can be told.
			p.each((*conn).interruptUpstream)
		default:
			p.each((*conn).interrupt)
		}
	}
}

// each calls f for every open connection.
func (p *Proxy) each(f func(*conn)) {
	p.mu.Lock()
	all := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// Resources tells how full the proxy's bounded things are.
func (p *Proxy) Resources() []metrics.Resource {
	r := []metrics.Resource{
		{Name: "connections", Entries: uint64(max(p.active.Load(), 0)), Capacity: uint64(p.Limits.Connections)},
		{Name: "connection_workloads", Entries: uint64(p.shares.len()), Capacity: uint64(p.Limits.Connections)},
		{Name: "http2_streams", Entries: uint64(max(p.streams.Load(), 0)), Capacity: uint64(p.Limits.Streams)},
		{Name: "repeated_requests", Entries: uint64(max(p.repeats.Load(), 0)), Capacity: maxRepeats},
		{Name: "refused_body_bytes", Entries: uint64(max(p.refusedBodies.Load(), 0)), Capacity: maxRefusedBodies},
		{Name: "kept_body_bytes", Entries: uint64(max(p.keptBodies.Load(), 0)), Capacity: maxKeptAll},
		{Name: "large_first_bytes", Entries: uint64(p.sniffer.Large()), Capacity: sniff.MaxLarge},
		{Name: "pinned_names", Entries: uint64(p.pinned.len()), Capacity: maxPinned},
		{Name: "closing_flows", Entries: uint64(p.legs.len()), Capacity: maxClosing},
		{Name: "early_closed_flows", Entries: uint64(p.legs.kept()), Capacity: maxEarly},
	}
	usage := p.http2.Usage()
	r = append(r,
		metrics.Resource{Name: "http2_body_bytes", Entries: uint64(max(usage.Held, 0)), Capacity: uint64(usage.Capacity)},
		metrics.Resource{Name: "http2_window_bytes", Entries: uint64(max(usage.Grown, 0)), Capacity: uint64(usage.Capacity)})
	for _, u := range p.Upstream.Resources() {
		r = append(r, metrics.Resource{Name: u.Name, Entries: uint64(u.Entries), Capacity: uint64(u.Capacity)})
	}
	return r
}

// HTTP2Closed walks how often HTTP/2 connections and streams were ended because
// of what their peer did, by cause.
func (p *Proxy) HTTP2Closed(yield func(cause string, n uint64) bool) {
	for cause, n := range p.http2.Counters() {
		if !yield(cause.String(), n) {
			return
		}
	}
}

// reset ends a connection so that the workload's call fails at once, and
// nothing can be taken for an answer.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// ours reports whether an address is one of our own listeners: reaching it
// would make a loop, or put a workload at the admin interface.
func (p *Proxy) ours(addr netip.Addr, port uint16) bool {
	return p.Own.Listener(netip.AddrPortFrom(addr, port))
}
