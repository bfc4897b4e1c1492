package proxy

import (
	"time"

	"sallyport/pkg/http1"
	"sallyport/pkg/upstream"
)

// The states of TCP (include/net/tcp_states.h) that mean that the peer is gone
// or will send nothing more.
const (
	tcpClose     = 7
	tcpCloseWait = 8
)

// goneTime is how long something goes on for a client that has ended its side
// and takes nothing, where the kernel does not tell whether it has only ended
// its side.
const goneTime = time.Minute

// textGone is for the audit.
const textGone = "the workload closed the connection before the end of the answer"

// gone reports whether nobody is left who could take an answer. A client may
// end its side and wait for the answer to what it sent (RFC 9112 section 9.6);
// from here that looks like one that has closed its socket, until something is
// written. Its own kernel knows: it reports the totals of a socket when that is
// closed, not when it is shut down for writing.
func (c *conn) gone(state uint8, silence time.Duration) bool {
	closed := c.p.legs.closed(c.flow.ID)
	switch {
	case state == tcpClose:
		return true
	case c.tunnelled.Load():
		// The upstream was told that nothing more will come. It may take its
		// time with what it got, but not for ever.
		return closed && silence > goneTime && c.upstreamSilence() > goneTime
	case closed:
		// What the client has sent before it left still reaches the upstream, as
		// it would without us; but not for ever where the upstream takes nothing.
		return c.handed() || silence > goneTime && c.upstreamSilence() > goneTime
	default:
		return state == tcpCloseWait && silence > goneTime && !c.p.legs.fed.Load()
	}
}

// handed reports whether the upstream has the whole request of the exchange.
// Sessions of HTTP/2 notice themselves who is gone.
func (c *conn) handed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch up := c.up.(type) {
	case *upstream.Conn:
		codec, ok := up.Codec.(*http1.ClientConn)
		return ok && codec.Handed()
	case *carrier:
		body := up.k.x.Request.Body
		return body == nil || body.Complete()
	default:
		return false
	}
}

// closed reports whether the kernel has told that the workload's socket is no
// more.
func (l *legs) closed(flow uint64) bool {
	l.mu.Lock()
	t := l.open[flow]
	l.mu.Unlock()
	if t == nil {
		return false
	}
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}
