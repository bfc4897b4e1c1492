package proxy

import (
	"context"
	"time"

	"sallyport/pkg/upstream"
)

// race waits for the first bytes of either side, while the upstream is dialled.
// A client that speaks meanwhile is not kept waiting: what it says may lead
// elsewhere, for instance to another address of the name that it asks for. Where
// the upstream cannot be reached the client has until the time given.
func (c *conn) race(h *hop, until time.Time, reach func(context.Context) (*upstream.Conn, bool)) (first, error) {
	type outcome struct {
		u         *upstream.Conn
		elsewhere bool
		n         int
	}
	ctx, cancel := context.WithCancel(c.context())
	defer cancel()
	buf := make([]byte, 4<<10)
	there := make(chan *upstream.Conn, 1)
	spoke := make(chan outcome, 1)
	go func() {
		var o outcome
		o.u, o.elsewhere = reach(ctx)
		there <- o.u
		if o.u == nil {
			_ = h.conn.SetReadDeadline(until)
			spoke <- o
			return
		}
		c.use(o.u)
		var err error
		if o.n, err = o.u.Read(buf); o.n > 0 || err != nil {
			// Failing means that the client is gone, which Sniff notices.
			_ = h.conn.SetReadDeadline(time.Unix(1, 0))
		}
		spoke <- o
	}()
	sc, result, err := c.p.sniffer.Sniff(h.conn, nil, 0)
	// The client has spoken or is gone, or the upstream has woken us.
	cancel()
	u := <-there
	if u != nil {
		u.SetReadDeadline(time.Unix(1, 0))
	}
	o := <-spoke
	c.use(nil)
	if err == nil && (c.phase.Load() == stopped || u != nil && u.SetReadDeadline(time.Time{}) != nil || h.conn.SetReadDeadline(time.Time{}) != nil) {
		err = errStopped
	}
	if err != nil {
		if u != nil {
			u.Close()
		}
		return first{}, err
	}
	return first{conn: sc, result: result, ready: u, early: buf[:o.n], elsewhere: o.elsewhere}, nil
}
