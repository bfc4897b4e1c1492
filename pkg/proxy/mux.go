package proxy

import (
	"context"
	"sync"

	"sallyport/pkg/http2"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// muxes are the HTTP/2 connections on which one connection of a workload has
// streams. They belong to it alone for that time, like connections of HTTP/1.1:
// what it moves is charged to its flow, and no other workload connection waits
// behind it. With its last stream each goes back to the pool.
type muxes struct {
	mu   sync.Mutex
	open []*mux
	// dials are the connections being opened. Streams that begin at the same
	// time share one.
	dials map[*upstream.Host]*dial
}

// A mux is one HTTP/2 connection to an upstream.
type mux struct {
	u       *upstream.Conn
	codec   *http2.ClientConn
	host    *upstream.Host
	streams int
	// told: the upstream has said how many streams it takes. Until then only
	// the one that opened the connection runs: each beyond what it takes would
	// be refused.
	told bool
}

// A dial is a connection being opened; fail is good after done is closed.
type dial struct {
	done chan struct{}
	fail *failure
}

// carry fills k.car with a stream for the route: on a connection that is in use
// already, on one from the pool, or on a new one. fresh demands a new one. An
// upstream that offered HTTP/2 once may speak HTTP/1.1 today; k.car is one of
// that then.
func (ms *muxes) carry(k *call, r *route, fresh bool) *failure {
	for {
		ms.mu.Lock()
		if !fresh && (ms.joinLocked(k, r) || ms.pooledLocked(k, r)) {
			ms.mu.Unlock()
			k.ev.Upstream.IP = k.car.u.Addr()
			k.ev.Upstream.Attempts++
			return nil
		}
		d := ms.dials[r.host]
		if d == nil || r.speaksHTTP1() {
			d = &dial{done: make(chan struct{})}
			if ms.dials == nil {
				ms.dials = make(map[*upstream.Host]*dial)
			}
			ms.dials[r.host] = d
			ms.mu.Unlock()
			return ms.dial(k, r, d)
		}
		ms.mu.Unlock()
		<-d.done // bounded by timeouts.connect
		if d.fail != nil {
			fail := *d.fail
			return &fail
		}
		fresh = false
	}
}

// dial opens a connection and tells those that wait for it.
func (ms *muxes) dial(k *call, r *route, d *dial) *failure {
	u, fail := k.dial(r)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if fail == nil {
		fail = ms.adoptLocked(k, r, u)
	}
	d.fail = fail
	if m := k.car.m; fail == nil && m != nil && !m.told {
		k.c.background.Go(func() { ms.await(k.c, m, r.host, d) })
		return nil
	}
	ms.doneLocked(r.host, d)
	return fail
}

// doneLocked lets those that wait for a connection go on.
func (ms *muxes) doneLocked(host *upstream.Host, d *dial) {
	if ms.dials[host] == d {
		delete(ms.dials, host)
	}
	close(d.done)
}

// await waits until the upstream has said how many streams it takes.
func (ms *muxes) await(c *conn, m *mux, host *upstream.Host, d *dial) {
	ctx, cancel := context.WithTimeout(c.context(), settingsTime)
	defer cancel()
	_, err := m.codec.Start(ctx)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m.told = err == nil
	ms.doneLocked(host, d)
}

// joinLocked opens a stream on a connection in use.
func (ms *muxes) joinLocked(k *call, r *route) bool {
	for _, m := range ms.open {
		if m.host != r.host || !r.host.Permits(r.way, m.u.Addr()) || !m.u.Trusted() {
			continue
		}
		if s, err := m.codec.Open(); err == nil {
			m.streams++
			k.car.u, k.car.h2, k.car.m = m.u, s, m
			return true
		}
	}
	return false
}

// pooledLocked opens a stream on a connection from the pool.
func (ms *muxes) pooledLocked(k *call, r *route) bool {
	for {
		u := r.host.Idle(r.way, &k.c.leg, k.work.last)
		if u == nil {
			return false
		}
		if ms.adoptLocked(k, r, u) == nil {
			return true
		}
	}
}

// adoptLocked opens the first stream on a connection.
func (ms *muxes) adoptLocked(k *call, r *route, u *upstream.Conn) *failure {
	if !r.agreed(u) {
		k.car.u, k.car.h1 = u, codecOf(k.c.p, u)
		return nil
	}
	codec := http2CodecOf(k.c.p, u)
	s, err := codec.Open()
	if err != nil {
		codec.Close()
		return &failure{reason: policy.UpstreamUnreachable, text: "the upstream takes no request on its HTTP/2 connection: " + err.Error()}
	}
	m := &mux{u: u, codec: codec, host: r.host, streams: 1, told: u.Reused()}
	ms.open = append(ms.open, m)
	k.car.u, k.car.h2, k.car.m = u, s, m
	return nil
}

// leave ends the use of a connection by one stream.
func (ms *muxes) leave(m *mux) {
	ms.mu.Lock()
	m.streams--
	last := m.streams == 0
	if last {
		for i, other := range ms.open {
			if other == m {
				ms.open = append(ms.open[:i], ms.open[i+1:]...)
				break
			}
		}
	}
	ms.mu.Unlock()
	switch {
	case !last:
	case m.codec.Usable():
		m.u.Release()
	default:
		m.codec.Close()
	}
}

// http2CodecOf gives the HTTP/2 codec of an upstream connection, kept with it
// while it is pooled.
func http2CodecOf(p *Proxy, u *upstream.Conn) *http2.ClientConn {
	cc, ok := u.Codec.(*http2.ClientConn)
	if !ok {
		cc = p.http2.Client(u, http2.ClientOptions{})
		u.Codec = cc
	}
	return cc
}
