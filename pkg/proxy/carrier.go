package proxy

import (
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/http1"
	"sallyport/pkg/upstream"
)

// inUse is what may be interrupted while it carries something; *upstream.Conn
// is one.
type inUse interface {
	Interrupt()
	// Silence is how long no data have passed either way.
	Silence() (time.Duration, error)
}

// A carrier takes one exchange to the upstream and back.
type carrier struct {
	k  *call
	u  *upstream.Conn
	h1 *http1.ClientConn
}

// carrier takes a connection for a route, one that is there already unless
// fresh.
func (k *call) carrier(r *route, fresh bool) (carrier, *failure) {
	c := k.c
	car := carrier{k: k}
	if !fresh {
		if car.u = r.host.Idle(r.way, &c.leg, k.work.last); car.u != nil {
			k.ev.Upstream.IP = car.u.Addr()
			k.ev.Upstream.Attempts++
			car.h1 = codecOf(c.p, car.u)
			return car, nil
		}
	}
	u, fail := k.dial(r)
	if fail != nil {
		return car, fail
	}
	car.u, car.h1 = u, codecOf(c.p, u)
	return car, nil
}

// dial opens a connection for a route.
func (k *call) dial(r *route) (*upstream.Conn, *failure) {
	c := k.c
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
	return a.h1.RoundTrip(req, resp, opts)
}

// finish ends the exchange; false means that it has spoiled its carrier.
func (a *carrier) finish(req *exchange.Request) (reusable bool, err error) {
	return a.h1.Finish(req)
}

// interruptible is what ends the exchange from outside.
func (a *carrier) interruptible() inUse {
	return a.u
}

// reused reports whether an exchange before this one has used the connection.
func (a *carrier) reused() bool { return a.u.Reused() }

// release keeps the connection for the next exchange.
func (a *carrier) release() {
	a.k.work.last = a.u
	a.u.Release()
}

// drop ends the connection.
func (a *carrier) drop() {
	a.h1.Close()
}
