package proxy

import (
	"sync"
	"time"

	"sallyport/pkg/http2"
	"sallyport/pkg/policy"
)

// A session is one hop of HTTP/2: many exchanges side by side.
type session struct {
	c     *conn
	h     *hop
	codec *http2.ServerConn

	drained sync.Once
	mu      sync.Mutex
	running map[*stream]struct{}
	spare   []*stream
}

// maxSpare bounds the streams that a session keeps for the next requests; with
// each goes what it learned of names and routes.
const maxSpare = 16

// serveHTTP2 answers the requests of one hop until it ends.
func (c *conn) serveHTTP2(h *hop) {
	s := &session{c: c, h: h, running: make(map[*stream]struct{})}
	s.codec = c.p.http2.Server(h.conn, http2.ServerOptions{
		Exchanges: &c.p.exchanges, ExtendedConnect: h.settings.ExtendedConnect,
	})
	c.setSession(s)
	defer c.setSession(nil)
	if !c.enter(waiting, time.Now()) {
		return
	}
	if c.p.draining.Load() {
		s.drain()
	}
	if err := s.codec.Serve(c.context(), s.handle); err != nil {
		c.readFailed(h, err)
		c.note("HTTP/2 with the workload ended: " + err.Error())
	}
	c.enter(reading, time.Now()) // Close may linger
	c.measure()
	s.codec.Close()
}

// handle runs one exchange, on a goroutine of its own.
func (s *session) handle(st *http2.ServerStream) {
	defer s.rescue(st)
	if !s.c.takeStream() {
		st.Reset(http2.RefusedStream)
		s.c.recordCrowded("too many requests of HTTP/2 are open; the workload must wait for some")
		return
	}
	defer s.c.giveStream()
	now := time.Now()
	t := s.begin(st, now)
	defer s.end(t)
	st.OnCancel(t.cancel)
	// A late call must not end the next exchange that t carries.
	defer st.OnCancel(nil)
	k := &t.call
	k.x = st.Exchange()
	k.begin(now)
	if bad := st.Malformed(); bad != nil {
		k.answer(bad.Refusal(), s.c.ownDecision(policy.MalformedRequest))
		return
	}
	k.run(now)
}

// takeStream counts an exchange; false is beyond the workload's or everybody's
// share. Each connection may have many, and each holds what an idle connection
// does not: a header section and all that carries it.
func (c *conn) takeStream() bool {
	limit := int64(c.p.Limits.Streams)
	return reserve(&c.share.streams, &c.p.streams, 1, max(limit/2, 1), limit)
}

// giveStream takes back one that takeStream has counted.
func (c *conn) giveStream() {
	release(&c.share.streams, &c.p.streams, 1)
}

// rescue ends one exchange where a mistake of ours would have ended all.
func (s *session) rescue(st *http2.ServerStream) {
	if r := recover(); r != nil {
		s.c.p.panicked(r)
		s.codec.Abort()
	}
}

// begin takes a stream that is not in use.
func (s *session) begin(st *http2.ServerStream, now time.Time) *stream {
	s.mu.Lock()
	var t *stream
	if n := len(s.spare); n > 0 {
		t, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		t = s.newStream()
	}
	t.ServerStream = st
	s.running[t] = struct{}{}
	if len(s.running) == 1 {
		s.c.enter(running, now)
	}
	s.mu.Unlock()
	return t
}

func (s *session) newStream() *stream {
	t := &stream{session: s, ev: s.c.ev}
	t.work.c = s.c
	t.call = call{c: s.c, h: s.h, client: t, ev: &t.ev, work: &t.work, stream: t}
	t.cancel = t.interrupt
	return t
}

func (s *session) end(t *stream) {
	s.mu.Lock()
	delete(s.running, t)
	if len(s.running) == 0 {
		s.c.enter(waiting, time.Now())
	}
	t.ServerStream, t.call.x = nil, nil
	t.quiet.Store(0)
	if len(s.spare) < maxSpare {
		s.spare = append(s.spare, t)
	}
	s.mu.Unlock()
}

// interrupt ends every exchange.
func (s *session) interrupt() {
	s.codec.Abort()
	s.each((*stream).interrupt)
}

// drain lets open exchanges finish and takes no further ones.
func (s *session) drain() { s.drained.Do(s.codec.Drain) }

// look ends the exchanges that have been silent for too long.
func (s *session) look() { s.each((*stream).look) }

func (s *session) each(f func(*stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.running {
		f(t)
	}
}
