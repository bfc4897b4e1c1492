package proxy

import (
	"bytes"
	"context"
	"errors"
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

// afterGreeting waits for the client of a server that speaks HTTP: those of
// HTTP/2 may speak first, yet who waits for that speaks HTTP too, and its requests
// are judged. The connection that was opened is not needed for that.
func (c *conn) afterGreeting(f *first, patience time.Duration) (first, error) {
	f.drop()
	sc, result, err := c.p.sniffer.Sniff(f.conn, nil, patience)
	if err == nil && result.Silent {
		err = errSilent
	}
	return first{conn: sc, result: result}, err
}

// greetsHTTP reports whether the first bytes of a server are an answer of HTTP/1,
// or the SETTINGS with which one of HTTP/2 begins (RFC 9113 section 3.4).
func greetsHTTP(b []byte) bool {
	if bytes.HasPrefix(b, []byte("HTTP/")) {
		return true
	}
	const header, settings = 9, 4
	return len(b) >= header && b[0] == 0 && (int(b[1])<<8|int(b[2]))%6 == 0 &&
		b[3] == settings && string(b[4:header]) == "\x00\x00\x00\x00\x00"
}

var errSilent = errors.New("the client said nothing")
