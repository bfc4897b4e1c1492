package http2

import (
	"sync"
	"time"

	"sallyport/pkg/exchange"
)

// A stream is what both sides of a connection know of one exchange. All of it
// is guarded by the connection's lock.
type stream struct {
	c  *conn
	id uint32
	// sv is set on the server side, cl on the client side.
	sv *ServerStream
	cl *ClientStream
	// rcond wakes those who wait for what comes, scond those who wait to send.
	rcond, scond sync.Cond

	body body
	// trailer came and is not passed on yet.
	trailer *block
	// declared is what content-length says, or what the message may have, -1
	// for any; got is what came.
	declared, got int64
	// recvWindow is what the peer may still send, window what that grows back
	// to, unsent what the peer may be given back, grown what the codec has
	// counted for window.
	recvWindow, window, unsent, grown int
	// sendWindow is what we may still send, below 0 not at all (RFC 9113
	// section 6.9.2).
	sendWindow int64
	// connWait: a sender waits for the connection's window.
	connWait bool
	// headerAt and stallAt are when the peer must have done what we wait for;
	// zero when we do not.
	headerAt, stallAt time.Time

	// recvEnd: END_STREAM came; sendEnd: it was appended.
	recvEnd, sendEnd bool
	// gone: the wire does not know the stream any more, or not yet.
	gone bool
	// err is why nothing more can be sent.
	err error
	// active is when content last came or left.
	active time.Time
}

func (s *stream) init(c *conn) {
	s.c = c
	s.rcond.L, s.scond.L = &c.mu, &c.mu
	s.body.s = s
	s.declared, s.recvWindow, s.window = -1, initialWindow, initialWindow
	s.gone = true
}

// enter makes the stream known to the wire. The lock is held.
func (s *stream) enter(id uint32, now time.Time) {
	s.id, s.gone, s.sendWindow = id, false, s.c.peerWindow
	s.moved(now)
	s.c.streams[id] = s
}

// moved takes note that something of the stream came or left. The lock is held.
func (s *stream) moved(now time.Time) { s.active = now }

// LastActive gives when content of the stream last came or left, or when it
// began.
func (s *stream) LastActive() time.Time {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.active
}

// leave makes the wire forget the stream. The lock is held.
func (s *stream) leave() {
	if s.gone {
		return
	}
	s.gone = true
	delete(s.c.streams, s.id)
	if s.cl != nil {
		s.cl.giveBackPlace()
	}
	if s.c.data.s == s {
		s.c.data.s = nil
	}
	if s.grown > 0 {
		s.c.codec.grown.Add(-int64(s.grown))
		s.grown = 0
	}
	s.headerAt, s.stallAt = time.Time{}, time.Time{}
}

// fail ends both directions and wakes whoever waits. The lock is held.
func (s *stream) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.body.fail(err)
	s.rcond.Broadcast()
	s.scond.Broadcast()
	if s.c.out.waiting > 0 {
		s.c.out.space.Broadcast()
	}
	if s.sv != nil {
		s.sv.cancel()
	}
}

// reset ends the stream with RST_STREAM. The lock is held.
func (s *stream) reset(code Code, err error) {
	if !s.gone {
		s.c.appendReset(s.id, code)
		s.c.resets.add(s.id)
		s.leave()
	}
	s.fail(err)
}

// sent takes note that END_STREAM was appended. The lock is held.
func (s *stream) sent() {
	s.sendEnd = true
	if s.recvEnd {
		s.c.floods.served()
		s.leave()
	}
}

// received takes note that END_STREAM came. The lock is held.
func (s *stream) received() {
	s.recvEnd = true
	s.body.finish()
	if s.sendEnd {
		s.c.floods.served()
		s.leave()
	}
	s.rcond.Broadcast()
}

// credit gives the peer back what a reader has consumed, n bytes. The lock is
// held.
func (s *stream) credit(n int) {
	c := s.c
	if c.withheld > 0 {
		k := min(n, c.withheld)
		c.withheld -= k
		c.giveBack(k)
	}
	s.giveBack(n)
}

// giveBack credits the stream with n bytes. The lock is held.
func (s *stream) giveBack(n int) {
	c := s.c
	if s.recvEnd || s.gone {
		return
	}
	s.unsent += n
	if s.unsent < s.window/2 {
		return
	}
	give := s.unsent
	if s.body.unread == 0 && s.window < maxStreamWindow {
		// The reader keeps up: the window is what holds the sender back.
		give += s.grow()
	}
	s.unsent = 0
	s.recvWindow += give
	c.appendWindowUpdate(s.id, give)
	c.flushSoon()
}

// grow widens the window, where there is memory for it, and gives by how much.
func (s *stream) grow() int {
	extra := min(s.window+1, maxStreamWindow-s.window)
	if s.c.codec.grown.Add(int64(extra)) > budget {
		s.c.codec.grown.Add(-int64(extra))
		return 0
	}
	s.grown += extra
	s.window += extra
	return extra
}

// giveBack credits the connection with n bytes. The lock is held.
func (c *conn) giveBack(n int) {
	c.unsent += n
	if c.unsent >= connWindow/2 && c.err == nil {
		c.recvWindow += c.unsent
		c.appendWindowUpdate(0, c.unsent)
		c.unsent = 0
		c.flushSoon()
	}
}

// appendData appends as much of p as the windows and the pending bytes allow,
// and END_STREAM behind the last of it where end says so. It gives how much;
// the end was appended where s.sendEnd is set. The lock is held.
func (s *stream) appendData(p []byte, end bool) (n int) {
	c := s.c
	defer func() {
		if n > 0 {
			s.moved(time.Now())
		}
	}()
	for len(c.out.b) < maxPending {
		size := int(min(int64(len(p)-n), int64(c.peerFrame), s.sendWindow, c.sendWindow))
		last := size == len(p)-n
		if size <= 0 && !(last && end) {
			return n
		}
		if !last && size < tinyFrame && size < c.peerFrame && c.floods.tiny() {
			c.die(&ConnError{EnhanceYourCalm, TinyWindow, "windows opened by a few bytes at a time"})
			return n
		}
		var flags uint8
		if last && end {
			flags = flagEndStream
		}
		b := appendFrameHeader(c.output(), size, frameData, flags, s.id)
		c.out.b = append(b, p[n:n+size]...)
		s.sendWindow -= int64(size)
		c.sendWindow -= int64(size)
		c.floods.answered()
		n += size
		if last {
			if end {
				s.sent()
			}
			return n
		}
	}
	return n
}

// write sends p, and END_STREAM behind it where end says so, as the peer takes
// it. It gives how much was appended. more says that the caller has more at
// once, so that this need not leave alone.
func (s *stream) write(p []byte, end, more bool) (n int, err error) {
	c := s.c
	c.mu.Lock()
	for {
		if s.err != nil {
			err = &exchange.SinkError{Err: s.err}
			break
		}
		n += s.appendData(p[n:], end)
		if n == len(p) && (!end || s.sendEnd) {
			break
		}
		if s.err != nil {
			continue
		}
		if len(c.out.b) >= maxPending {
			c.awaitSpace(s)
			continue
		}
		s.awaitWindow()
	}
	if more && err == nil && len(c.out.b) < maxPending {
		c.mu.Unlock()
		return n, nil
	}
	c.flushLocked()
	return n, err
}

// awaitWindow returns when a window may have opened. The lock is held.
func (s *stream) awaitWindow() {
	c := s.c
	c.flushSoon()
	s.connWait = c.sendWindow <= 0
	s.stallAt = time.Now().Add(c.stallTime)
	c.watch.at(c, s.stallAt)
	s.scond.Wait()
	s.stallAt, s.connWait = time.Time{}, false
}

// endWith sends the end of the stream: the trailer section, or an empty DATA
// frame without one.
func (s *stream) endWith(trailer *exchange.Header) error {
	if trailer == nil || trailer.Len() == 0 {
		_, err := s.write(nil, true, false)
		return err
	}
	c := s.c
	c.mu.Lock()
	c.awaitSpace(s)
	if s.err != nil {
		err := &exchange.SinkError{Err: s.err}
		c.unlock()
		return err
	}
	c.encodeTrailer(s.id, trailer)
	s.sent()
	c.flushLocked()
	return nil
}

// A resetRing remembers the streams that we reset last: what their peer had
// sent before it knew is not its fault (RFC 9113 section 5.1).
type resetRing struct {
	ids  []uint32
	next int
}

// maxResets bounds the ring; a peer has no more streams open than that.
const maxResets = maxOpened

func (r *resetRing) add(id uint32) {
	if len(r.ids) < maxResets {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % maxResets
}

func (r *resetRing) has(id uint32) bool {
	for _, x := range r.ids {
		if x == id {
			return true
		}
	}
	return false
}
