package proxy

import (
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/http1"
	"sallyport/pkg/http2"
	"sallyport/pkg/upstream"
)

// inUse is what may be interrupted while it carries something; *upstream.Conn
// is one.
type inUse interface {
	Interrupt()
	// Silence is how long no data have passed either way.
	Silence() (time.Duration, error)
}

// A carrier takes one exchange to the upstream and back: an HTTP/1.1
// connection, or one stream of an HTTP/2 connection.
type carrier struct {
	k *call
	u *upstream.Conn
	// Either h1, or h2 and its connection m.
	h1 *http1.ClientConn
	h2 *http2.ClientStream
	m  *mux
}

// take fills k.car with a connection for a route, one that is there already
// unless fresh.
func (k *call) take(r *route, fresh bool) *failure {
	c, car := k.c, &k.car
	*car = carrier{k: k}
	if r.multiplexes() {
		return c.muxes.carry(k, r, fresh)
	}
	if !fresh && k.adopt(r) {
		return nil
	}
	if !fresh {
		if car.u = r.host.Idle(r.way, &c.leg, k.work.last); car.u != nil {
			k.ev.Upstream.IP = car.u.Addr()
			k.ev.Upstream.Attempts++
			car.h1 = codecOf(c.p, car.u)
			return nil
		}
	}
	u, fail := k.dial(r)
	if fail != nil {
		return fail
	}
	car.u, car.h1 = u, codecOf(c.p, u)
	return nil
}

// adopt takes the connection on which the upstream was asked what it speaks, if
// that was HTTP/1.1 and it goes where the first request wants to go.
func (k *call) adopt(r *route) bool {
	u := k.c.ready
	if u == nil || k.stream != nil {
		return false
	}
	k.c.ready = nil
	if !r.host.Adopt(u, r.way) {
		u.Close()
		return false
	}
	k.ev.Upstream.IP = u.Addr()
	k.ev.Upstream.Attempts++
	k.car.u, k.car.h1 = u, codecOf(k.c.p, u)
	return true
}

// dial opens a connection for a route.
func (k *call) dial(r *route) (*upstream.Conn, *failure) {
	c := k.c
	if f := k.h.failed; f != nil && k.tries.n <= 1 && f.host == r.host && time.Since(f.at) < freshTime {
		// The client was only waiting for this answer.
		return nil, f.failure
	}
	u, err := r.host.Dial(c.context(), r.way, &c.leg)
	c.countHandshake(r.target.scheme, err)
	if err != nil {
		fail := dialFailure(err)
		fail.attempts += k.ev.Upstream.Attempts
		return nil, fail
	}
	k.ev.Upstream.IP = u.Addr()
	k.ev.Upstream.Attempts += u.Attempts()
	return u, nil
}

// codecOf gives the HTTP/1.1 codec of an upstream connection, kept with it while
// it is pooled.
func codecOf(p *Proxy, u *upstream.Conn) *http1.ClientConn {
	cc, ok := u.Codec.(*http1.ClientConn)
	if !ok {
		cc = p.codec.Client(u)
		u.Codec = cc
	}
	return cc
}

func (a *carrier) roundTrip(req *exchange.Request, resp *exchange.Response, opts exchange.Options) error {
	if a.h2 != nil {
		return a.h2.RoundTrip(req, resp, opts)
	}
	return a.h1.RoundTrip(req, resp, opts)
}

// finish ends the exchange; false means that it has spoiled its carrier.
func (a *carrier) finish(req *exchange.Request) (reusable bool, err error) {
	if a.h2 != nil {
		return a.h2.Finish(req)
	}
	return a.h1.Finish(req)
}

// part ends the use of the upstream's connection. It is kept for another request
// where it is whole, and keep. The error is that of sending the request.
func (k *call) part(keep bool) error {
	reusable, err := k.car.finish(&k.x.Request)
	k.use(nil)
	if reusable && keep && !k.c.p.draining.Load() {
		k.car.release()
	} else {
		k.car.drop()
	}
	return err
}

// sent waits at most d until nobody reads the body of the request any more, and
// reports whether that is so.
func (a *carrier) sent(d time.Duration) bool {
	if a.h2 != nil {
		return a.h2.Sent(d)
	}
	return a.h1.Sent(d)
}

// extended reports whether the upstream takes extended CONNECT (RFC 8441).
func (a *carrier) extended() bool { return a.h2 != nil && a.m.codec.ExtendedConnect() }

// inUse is what ends the exchange from outside: the connection if it is the
// exchange's own, else its stream.
func (a *carrier) inUse() inUse {
	if a.h2 != nil {
		return a
	}
	return a.u
}

// Interrupt implements inUse for a stream.
func (a *carrier) Interrupt() { a.h2.Interrupt() }

// Silence implements inUse. That of a stream is not less than its connection's.
func (a *carrier) Silence() (time.Duration, error) { return a.u.Silence() }

// reused reports whether the upstream may have begun to close the connection
// when the exchange began.
func (a *carrier) reused() bool { return a.h2 != nil || a.u.Reused() }

// release keeps the connection for the next exchange.
func (a *carrier) release() {
	if a.h2 != nil {
		a.k.c.muxes.leave(a.m)
		return
	}
	a.k.work.last = a.u
	a.u.Release()
}

// drop ends a connection of HTTP/1.1; one of HTTP/2 ends with its last stream
// if it is no longer usable.
func (a *carrier) drop() {
	if a.h2 != nil {
		a.k.c.muxes.leave(a.m)
		return
	}
	a.h1.Close()
}
