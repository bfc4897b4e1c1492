package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// A Host is the connections of one key. Its idle ones sit in slots that are
// taken and filled by compare-and-swap: no lock on the way of a request.
type Host struct {
	pool  *Pool
	key   Key
	slots []atomic.Pointer[Conn]
	idle  atomic.Int32
	used  atomic.Int64
	gone  atomic.Bool
	// spoke and lost are the pool's memories, which outlive the host.
	spoke *atomic.Pointer[spoken]
	lost  *lostFamily
}

// spokeTime is how long it is taken for granted that an upstream goes on
// choosing the same protocol.
const spokeTime = 10 * time.Minute

// A spoken is what an upstream chose, and when.
type spoken struct {
	protocol string
	at       time.Duration // since the pool's start
}

// Spoke gives the protocol that the upstream chose of Key.ALPN when it was last
// asked, "" for none of them; known is false where that was never or is too
// long ago.
func (h *Host) Spoke() (protocol string, known bool) {
	s := h.spoke.Load()
	if s == nil || time.Since(h.pool.start)-s.at > spokeTime {
		return "", false
	}
	return s.protocol, true
}

// heard remembers what the upstream chose.
func (h *Host) heard(protocol string) {
	h.spoke.Store(&spoken{protocol, time.Since(h.pool.start)})
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
	if prefer != nil && prefer.host == h && h.slots[prefer.slot.Load()].CompareAndSwap(prefer, nil) {
		if c := h.usable(prefer, r, leg); c != nil {
			return c
		}
	}
	for i := range h.slots {
		c := h.slots[i].Load()
		if c == nil || !h.Permits(r, c.addr) || !h.slots[i].CompareAndSwap(c, nil) {
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
	case !h.Permits(r, c.addr):
		// Only prefer comes here: its address is good for another rule.
		c.Release()
		return nil
	case c.trust != h.pool.trust.Load(), !c.alive():
		c.retire()
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
	c.parked.Store(int64(now))
	h.used.Store(int64(now))
	for i := range h.slots {
		c.slot.Store(int32(i))
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

// expire closes what was parked before limit or verified against other roots,
// and what its codec says is over.
func (h *Host) expire(limit time.Duration, trust *Trust) {
	for i := range h.slots {
		c := h.slots[i].Load()
		if c == nil || c.trust == trust && time.Duration(c.parked.Load()) >= limit && !c.over() {
			continue
		}
		if h.slots[i].CompareAndSwap(c, nil) {
			h.unparked()
			c.retire()
		}
	}
}

// shut closes every idle connection and keeps no more.
func (h *Host) shut() {
	h.gone.Store(true)
	for i := range h.slots {
		if c := h.slots[i].Swap(nil); c != nil {
			h.unparked()
			c.retire()
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
	now := time.Since(h.pool.start)
	addrs := order(r, h.lost.get(now), kernelSource)
	tried := 0
	wanted := anyFamily
	if len(addrs) > 0 {
		wanted = familyOf(addrs[0])
	}
	var last *Error
	for len(addrs) > 0 {
		tcp, addr, n, err := dial(ctx, h.pool.dialer, addrs, h.key.port())
		tried += n
		if err != nil {
			if last == nil {
				last = h.dialFailure(err, addr, tried)
			}
			break
		}
		// TCP came up but TLS may not: a path that drops large packets does that,
		// and another address may take another path.
		rest := slices.DeleteFunc(addrs, func(a netip.Addr) bool { return a == addr })
		c, e, again := h.handshakeWithin(ctx, tcp, slices.ContainsFunc(rest, func(a netip.Addr) bool { return familyOf(a) != familyOf(addr) }))
		if e == nil {
			if familyOf(addr) != wanted {
				h.lost.set(wanted, now)
			}
			c.addr, c.attempts = addr, tried
			c.take(leg)
			return c, nil
		}
		e.Addr = addr
		last = e
		if !again || ctx.Err() != nil {
			break
		}
		addrs = rest
	}
	if last == nil {
		last = h.dialFailure(errNoAddress, r.Own, 0)
	}
	last.Attempts = tried
	return nil, last
}

// handshakeWithin gives a handshake half of the time that is left where another
// family may yet be tried.
func (h *Host) handshakeWithin(ctx context.Context, tcp *net.TCPConn, other bool) (*Conn, *Error, bool) {
	if until, ok := ctx.Deadline(); ok && other {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(until)/2)
		defer cancel()
	}
	return h.handshake(ctx, tcp)
}

// handshake makes a Conn of a socket, TLS and verification included.
func (h *Host) handshake(ctx context.Context, tcp *net.TCPConn) (*Conn, *Error, bool) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		tcp.Close()
		return nil, h.dialFailure(err, netip.Addr{}, 1), true
	}
	s, err := h.pool.sockets.New(tcp)
	if err != nil {
		tcp.Close()
		return nil, h.dialFailure(err, netip.Addr{}, 1), true
	}
	c := &Conn{Conn: s, tcp: tcp, raw: raw, socket: s, host: h}
	if h.key.Proxy != nil {
		if e, again := h.through(ctx, c); e != nil {
			tcp.Close()
			return nil, e, again
		}
	}
	if h.key.Scheme == Clear {
		c.trust = h.pool.trust.Load()
		return c, nil, false
	}
	trust := h.pool.trust.Load()
	r := &resumption{all: h.pool.sessions, key: sessionKey(h.key, trust.generation)}
	t := tls.Client(c.Conn, clientConfig(trust, h.key, r))
	if err := t.HandshakeContext(ctx); err != nil {
		tcp.Close()
		e, again := tlsError(err, r, h.key.Name, time.Now())
		return nil, e, again
	}
	c.Conn, c.tls, c.trust = t, t, trust
	state := t.ConnectionState()
	c.version, c.protocol = state.Version, state.NegotiatedProtocol
	h.heard(c.protocol)
	return c, nil, false
}
