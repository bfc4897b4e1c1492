package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Options are the bounds of a Pool. Zero values mean the defaults.
type Options struct {
	Trust Trust
	// ConnectTimeout bounds connecting, TLS included (timeouts.connect, 10 s).
	ConnectTimeout time.Duration
	// IdleTimeout is how long a connection is kept without use (1 min: most
	// servers close after 60 to 75 s, and who closes first should be us).
	IdleTimeout time.Duration
	// MaxIdle bounds all idle connections (1024); when full, a connection is
	// closed instead of kept. MaxIdlePerHost bounds those of one key (32).
	MaxIdle, MaxIdlePerHost int
	// MaxHosts bounds the keys (4096); when full, an idle key is forgotten.
	MaxHosts int
	// MaxSessions bounds the TLS sessions kept for resumption (4096); when
	// full, the one longest unused is forgotten.
	MaxSessions int
}

func (o Options) withDefaults() Options {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = time.Minute
	}
	set(&o.MaxIdle, 1024)
	set(&o.MaxIdlePerHost, 32)
	set(&o.MaxHosts, 4096)
	set(&o.MaxSessions, 4096)
	return o
}

// A Pool opens connections and keeps the idle ones.
type Pool struct {
	opt    Options
	dialer *net.Dialer
	start  time.Time
	trust  atomic.Pointer[Trust]
	idle   atomic.Int64

	mu       sync.Mutex
	hosts    map[Key]*Host
	closed   bool
	sessions *lru.Cache[string, *tls.ClientSessionState]
}

// New gives a pool. It starts nothing; Run closes what is idle too long.
func New(o Options) (*Pool, error) {
	o = o.withDefaults()
	sessions, err := lru.New[string, *tls.ClientSessionState](o.MaxSessions)
	if err != nil {
		return nil, err
	}
	p := &Pool{opt: o, dialer: newDialer(), start: time.Now(), hosts: make(map[Key]*Host), sessions: sessions}
	p.trust.Store(&o.Trust)
	return p, nil
}

// SetTrust replaces what certificates are verified against. Idle connections
// and sessions that were verified against the old are not used again.
func (p *Pool) SetTrust(t Trust) {
	p.trust.Store(&t)
	p.sessions.Purge()
}

// Run closes idle connections until ctx ends, then closes the pool.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(max(p.opt.IdleTimeout/4, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.Close()
			return nil
		case <-tick.C:
			p.sweep()
		}
	}
}

// Close closes every idle connection; what is in use is closed on release.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	hosts := p.hosts
	p.hosts = make(map[Key]*Host)
	p.mu.Unlock()
	for _, h := range hosts {
		h.shut()
	}
}

// Resources tells how full the pool's bounded things are.
func (p *Pool) Resources() []Resource {
	p.mu.Lock()
	hosts := len(p.hosts)
	p.mu.Unlock()
	return []Resource{
		{"upstream_idle_connections", int(p.idle.Load()), p.opt.MaxIdle},
		{"upstream_hosts", hosts, p.opt.MaxHosts},
		{"upstream_tls_sessions", p.sessions.Len(), p.opt.MaxSessions},
	}
}

// Host gives the connections of one key. The caller may keep it; Gone says
// when to ask again.
func (p *Pool) Host(key Key) *Host {
	p.mu.Lock()
	h := p.hosts[key]
	var out *Host
	if h == nil {
		h = &Host{pool: p, key: key, slots: make([]atomic.Pointer[Conn], p.opt.MaxIdlePerHost)}
		h.used.Store(int64(time.Since(p.start)))
		switch {
		case p.closed:
			h.gone.Store(true)
		default:
			if len(p.hosts) >= p.opt.MaxHosts {
				out = p.evictLocked()
			}
			p.hosts[key] = h
		}
	}
	p.mu.Unlock()
	if out != nil {
		out.shut()
	}
	return h
}

// evictLocked forgets one key, one without idle connections if a short look
// finds it.
func (p *Pool) evictLocked() *Host {
	var out *Host
	looked := 0
	for _, h := range p.hosts {
		if out == nil || h.idle.Load() == 0 {
			out = h
		}
		if looked++; looked == 64 || out.idle.Load() == 0 {
			break
		}
	}
	delete(p.hosts, out.key)
	return out
}

func (p *Pool) sweep() {
	now := time.Since(p.start)
	p.mu.Lock()
	hosts := make([]*Host, 0, len(p.hosts))
	for _, h := range p.hosts {
		hosts = append(hosts, h)
	}
	p.mu.Unlock()
	trust := p.trust.Load()
	for _, h := range hosts {
		h.expire(now-p.opt.IdleTimeout, trust)
		if h.idle.Load() == 0 && time.Duration(h.used.Load()) < now-p.opt.IdleTimeout {
			p.mu.Lock()
			if p.hosts[h.key] == h {
				delete(p.hosts, h.key)
			}
			p.mu.Unlock()
			h.shut()
		}
	}
}

// A Host is the connections of one key. Its idle ones sit in slots that are
// taken and filled by compare-and-swap: no lock on the way of a request.
type Host struct {
	pool   *Pool
	key    Key
	slots  []atomic.Pointer[Conn]
	idle   atomic.Int32
	used   atomic.Int64
	gone   atomic.Bool
	config atomic.Pointer[hostConfig]
}

type hostConfig struct {
	trust *Trust
	tls   *tls.Config
}

// Key is what the host was asked for with.
func (h *Host) Key() Key { return h.key }

// Gone reports whether the pool has forgotten the host: its connections are no
// longer kept.
func (h *Host) Gone() bool { return h.gone.Load() }

// Idle takes an idle connection that may serve the route, prefer first, and
// charges leg with it from here on; nil if there is none. Dead ones that it
// meets are closed.
func (h *Host) Idle(r Route, leg *Leg, prefer *Conn) *Conn {
	if h.idle.Load() == 0 {
		return nil
	}
	if prefer != nil && prefer.host == h && prefer.slot < len(h.slots) && h.slots[prefer.slot].CompareAndSwap(prefer, nil) {
		if c := h.usable(prefer, r, leg); c != nil {
			return c
		}
	}
	for i := range h.slots {
		c := h.slots[i].Load()
		if c == nil || !r.permits(c.addr) || !h.slots[i].CompareAndSwap(c, nil) {
			continue
		}
		if c := h.usable(c, r, leg); c != nil {
			return c
		}
	}
	return nil
}

// usable finishes taking c out of its slot; nil if it was dead.
func (h *Host) usable(c *Conn, r Route, leg *Leg) *Conn {
	h.unparked()
	switch {
	case !r.permits(c.addr):
		// Only prefer comes here: its address is good for another rule.
		c.Release()
		return nil
	case c.trust != h.pool.trust.Load(), !c.alive():
		c.Close()
		return nil
	}
	c.reused = true
	c.take(leg)
	return c
}

func (h *Host) unparked() {
	h.idle.Add(-1)
	h.pool.idle.Add(-1)
}

// park keeps c; it reports false where there is no room.
func (h *Host) park(c *Conn) bool {
	if h.gone.Load() || c.trust != h.pool.trust.Load() {
		return false
	}
	if h.pool.idle.Add(1) > int64(h.pool.opt.MaxIdle) {
		h.pool.idle.Add(-1)
		return false
	}
	h.idle.Add(1)
	now := time.Since(h.pool.start)
	c.parked = now
	h.used.Store(int64(now))
	for i := range h.slots {
		c.slot = i
		if h.slots[i].Load() == nil && h.slots[i].CompareAndSwap(nil, c) {
			if h.gone.Load() && h.slots[i].CompareAndSwap(c, nil) {
				// shut may have passed this slot before it was filled.
				h.unparked()
				return false
			}
			return true
		}
	}
	h.unparked()
	return false
}

// expire closes what was parked before limit or verified against other roots.
func (h *Host) expire(limit time.Duration, trust *Trust) {
	for i := range h.slots {
		c := h.slots[i].Load()
		if c == nil || !h.slots[i].CompareAndSwap(c, nil) {
			continue
		}
		h.unparked()
		if c.parked < limit || c.trust != trust {
			c.Close()
			continue
		}
		c.Release()
	}
}

// shut closes every idle connection and keeps no more.
func (h *Host) shut() {
	h.gone.Store(true)
	for i := range h.slots {
		if c := h.slots[i].Swap(nil); c != nil {
			h.unparked()
			c.Close()
		}
	}
}

// Dial opens a connection and charges leg with it. The error is an *Error.
func (h *Host) Dial(ctx context.Context, r Route, leg *Leg) (*Conn, error) {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = h.pool.opt.ConnectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addrs := order(r)
	tried := 0
	var last *Error
	for len(addrs) > 0 {
		tcp, addr, n, err := dial(ctx, h.pool.dialer, addrs, h.key.Port)
		tried += n
		if err != nil {
			if last == nil {
				last = dialError(err, addr, h.key.Port, tried)
			}
			break
		}
		c, e, again := h.handshake(ctx, tcp)
		if e == nil {
			c.addr, c.attempts = addr, tried
			c.take(leg)
			return c, nil
		}
		e.Addr = addr
		last = e
		if !again || ctx.Err() != nil {
			break
		}
		// TCP came up but TLS did not: a path that drops large packets does
		// that, and another address may take another path.
		rest := addrs[:0]
		for _, a := range addrs {
			if a != addr {
				rest = append(rest, a)
			}
		}
		addrs = rest
	}
	if last == nil {
		last = dialError(errNoAddress, r.Own, h.key.Port, 0)
	}
	last.Attempts = tried
	return nil, last
}

// handshake makes a Conn of a socket, TLS and verification included.
func (h *Host) handshake(ctx context.Context, tcp *net.TCPConn) (*Conn, *Error, bool) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		tcp.Close()
		return nil, dialError(err, netip.Addr{}, h.key.Port, 1), true
	}
	c := &Conn{Conn: tcp, tcp: tcp, raw: raw, host: h}
	c.peek = c.probe
	if h.key.Scheme == Clear {
		c.trust = h.pool.trust.Load()
		return c, nil, false
	}
	hc := h.tlsConfig()
	t := tls.Client(tcp, hc.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		tcp.Close()
		e, again := tlsError(err, h.key.Name, time.Now())
		return nil, e, again
	}
	c.Conn, c.tls, c.trust = t, t, hc.trust
	c.version = t.ConnectionState().Version
	return c, nil, false
}

// tlsConfig gives the configuration under the present trust.
func (h *Host) tlsConfig() *hostConfig {
	trust := h.pool.trust.Load()
	if hc := h.config.Load(); hc != nil && hc.trust == trust {
		return hc
	}
	prefix := h.key.Workload + "\x00" + h.key.Host + "\x00" + strconv.Itoa(int(h.key.Port)) + "\x00"
	hc := &hostConfig{trust, clientConfig(*trust, h.key, sessionCache{h.pool.sessions, prefix})}
	h.config.Store(hc)
	return hc
}
