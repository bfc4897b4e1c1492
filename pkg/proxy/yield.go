package proxy

import (
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/http1"
)

// idleShare is the part of timeouts.drain that idle connections are kept for when
// somebody else serves new ones: a request that comes in the last part of it is
// still answered in the rest.
const idleShare = 0.9

// endTime is what running exchanges have, once their time to drain is over, to
// tell their clients so.
const endTime = 500 * time.Millisecond

// Yield says that another process serves what Serve no longer accepts once its
// context ends: whoever was accepted until then is served here, and connections
// that are idle are not closed at once, because a request may be on its way on
// each. The next response on them is the last one.
func (p *Proxy) Yield() {
	p.yielding.Store(true)
	p.draining.Store(true)
}

// Settled reports whether nobody accepts any more and of everybody who was
// accepted it is known who they are.
func (p *Proxy) Settled() bool { return p.accepting.Load() == 0 && p.meeting.Load() == 0 }

// next waits for the next request on a connection of HTTP/1 and reports whether
// there is one.
func (c *conn) next(h *hop, sc *http1.ServerConn) (now time.Time, ok bool) {
	err := sc.Wait()
	if err != nil && c.late() {
		c.tcp.SetReadDeadline(time.Now().Add(c.p.Limits.Head))
		err = sc.Wait()
	}
	if err != nil {
		c.readFailed(h, err)
		return now, false
	}
	now = time.Now()
	c.since.Store(int64(now.Sub(c.p.start)))
	if c.phase.CompareAndSwap(waiting, reading) {
		return now, true
	}
	// It was being closed as idle when its request was here already: whoever sent
	// that cannot know, and is answered.
	if c.p.hard.Err() != nil || !c.phase.CompareAndSwap(stopped, reading) {
		return now, false
	}
	c.tcp.SetReadDeadline(time.Time{})
	return now, true
}

// late reports whether a request arrived on a connection that is being closed
// because it was idle.
func (c *conn) late() bool {
	if c.phase.Load() != stopped || c.p.hard.Err() != nil {
		return false
	}
	queued := 0
	var qerr error
	err := c.raw.Control(func(fd uintptr) { queued, qerr = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return err == nil && qerr == nil && queued > 0
}

// drainSession has a connection of HTTP/2 take no further exchange. GOAWAY tells
// the client which of its requests are served (RFC 9113 section 6.8), so nothing
// that it has sent is lost.
func (c *conn) drainSession() {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s != nil {
		s.drain()
	}
}
