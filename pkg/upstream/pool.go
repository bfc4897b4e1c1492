package upstream

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"sallyport/pkg/tcpconn"
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
	// sockets is what all connections share, the workloads' too.
	sockets tcpconn.Sockets

	mu       sync.Mutex
	hosts    map[Key]*Host
	closed   bool
	sessions *sessions
	// spoke remembers what upstreams chose of what they were offered, lost which
	// of their families does not work.
	spoke *lru.Cache[Key, *atomic.Pointer[spoken]]
	lost  *lru.Cache[endpoint, *lostFamily]
}

// New gives a pool. It starts nothing; Run closes what is idle too long.
func New(o Options) (*Pool, error) {
	o = o.withDefaults()
	kept, err := lru.New[string, session](o.MaxSessions)
	if err != nil {
		return nil, err
	}
	spoke, err := lru.New[Key, *atomic.Pointer[spoken]](o.MaxHosts)
	if err != nil {
		return nil, err
	}
	lost, err := lru.New[endpoint, *lostFamily](o.MaxHosts)
	if err != nil {
		return nil, err
	}
	p := &Pool{opt: o, dialer: newDialer(), start: time.Now(), hosts: make(map[Key]*Host), sessions: kept, spoke: spoke, lost: lost}
	p.trust.Store(&o.Trust)
	return p, nil
}

// Sockets is what the connections of the pool share. Those between which and
// the pool data are passed on belong to it too.
func (p *Pool) Sockets() *tcpconn.Sockets { return &p.sockets }

// SetTrust replaces what certificates are verified against. Idle connections
// and sessions that were verified against the old are not used again. One
// caller at a time.
func (p *Pool) SetTrust(t Trust) {
	t.generation = p.trust.Load().generation + 1
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
	lent, most := p.sockets.LargeBuffers()
	return []Resource{
		{"upstream_idle_connections", int(p.idle.Load()), p.opt.MaxIdle},
		{"upstream_hosts", hosts, p.opt.MaxHosts},
		{"upstream_tls_sessions", p.sessions.Len(), p.opt.MaxSessions},
		{"upstream_protocols", p.spoke.Len(), p.opt.MaxHosts},
		{"upstream_families", p.lost.Len(), p.opt.MaxHosts},
		{"relay_buffers", lent, most},
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
		h.spoke, h.lost = remembered(p.spoke, key), remembered(p.lost, endpointOf(key))
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

// An endpoint is what is dialled, whoever does and how.
type endpoint struct {
	host string
	port uint16
}

func endpointOf(k Key) endpoint {
	if k.Proxy != nil {
		return endpoint{k.Proxy.Host(), k.Proxy.Port()}
	}
	return endpoint{k.Host, k.Port}
}

// remembered gives the entry of a memory, a new one where there is none. When a
// memory is full, the entry longest unused is forgotten: what it says is found
// out again.
func remembered[K comparable, V any](memory *lru.Cache[K, *V], key K) *V {
	if v, ok := memory.Get(key); ok {
		return v
	}
	v := new(V)
	if previous, ok, _ := memory.PeekOrAdd(key, v); ok {
		return previous
	}
	return v
}
