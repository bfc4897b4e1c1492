package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"sallyport/pkg/exchange"
)

// ServerOptions are those of the server side of a connection.
type ServerOptions struct {
	// Exchanges lends the exchange of each stream; it is required.
	Exchanges *exchange.Pool
	// ExtendedConnect tells the client that it may open streams of other
	// protocols (RFC 8441).
	ExtendedConnect bool
	// MaxStreams bounds the streams that are open at a time; 0 is 128.
	MaxStreams uint32
	// StallTimeout is how long the client may keep its windows shut while a
	// response waits; 0 is a minute.
	StallTimeout time.Duration
}

// A ServerConn serves the streams of one client. Its methods may be called
// from any goroutine.
type ServerConn struct {
	c       conn
	o       ServerOptions
	handle  func(*ServerStream)
	workers sync.WaitGroup

	// Guarded by the connection's lock.
	running int // requests whose handle runs
	// fresh are requests whose content may be here already, among what was read
	// with their head: they are handled when that was looked at, so that short
	// content goes on together with the head.
	fresh   []*ServerStream
	parked  []*worker // goroutines that wait for a stream
	trimAt  time.Time // when those end
	drain   drainState
	drainAt time.Time // when the client has had its time
	// done: the end was wanted, and nothing was open any more.
	done bool
}

type drainState uint8

const (
	serving drainState = iota
	// announced: GOAWAY was sent with the highest id there is, so that streams
	// which are on their way are still served (RFC 9113 section 6.8).
	announced
	// closing: GOAWAY was sent with the last stream that is served.
	closing
)

// Server gives the server side of a connection. It starts nothing and reads
// nothing.
func (c *Codec) Server(conn net.Conn, o ServerOptions) *ServerConn {
	if o.MaxStreams == 0 {
		o.MaxStreams = defaultMaxStreams
	}
	s := &ServerConn{o: o}
	s.c.srv = s
	s.c.init(c, conn, o.StallTimeout, stallTime)
	return s
}

// Serve reads the client's preface and streams until the connection ends, and
// runs handle for each request on a goroutine of its own. It returns when all
// of them have returned; then the caller must Close. It gives nil after a clean
// end, by the client between two streams or by Drain, else why: a *ConnError
// where the client broke the protocol, ErrClosed after Abort, or the
// connection's own error. The end of ctx is an Abort.
func (s *ServerConn) Serve(ctx context.Context, handle func(*ServerStream)) error {
	stop := context.AfterFunc(ctx, s.Abort)
	defer stop()
	c := &s.c
	s.handle = handle
	c.mu.Lock()
	c.begin()
	settings := make([]byte, 0, 3*6)
	settings = appendSetting(settings, settingMaxStreams, s.o.MaxStreams)
	settings = appendSetting(settings, settingMaxList, maxList)
	if s.o.ExtendedConnect {
		settings = appendSetting(settings, settingExtendedConnect, 1)
	}
	c.appendSettings(settings)
	c.mu.Unlock()
	err := c.run()
	s.workers.Wait()
	c.lastWords(err)
	c.mu.Lock()
	open := s.done
	c.mu.Unlock()
	if open || err == io.EOF {
		return nil
	}
	return err
}

// Close closes the connection after Serve. Where the client may not have read
// what was written last it reads on for a bounded time first.
func (s *ServerConn) Close() error {
	c := &s.c
	c.mu.Lock()
	linger := c.err != nil && c.err != io.EOF && !errors.Is(c.err, ErrClosed) && c.out.err == nil
	c.out.final = true
	c.mu.Unlock()
	if linger {
		c.linger()
	}
	err := c.nc.Close()
	c.tasks.Wait()
	c.mu.Lock()
	c.dropOutput()
	c.mu.Unlock()
	return err
}

// Drain ends the connection gracefully (RFC 9113 section 6.8): open streams
// finish, later ones are refused as unprocessed, and Serve returns. It does not
// wait.
func (s *ServerConn) Drain() {
	c := &s.c
	c.mu.Lock()
	defer c.unlock()
	if s.drain != serving || c.err != nil {
		return
	}
	s.drain = announced
	c.appendGoAway(maxWindow, NoError)
	c.appendPing(0, drainPing[:])
	s.drainAt = time.Now().Add(drainTime)
	c.watch.at(c, s.drainAt)
	c.flushSoon()
}

// drainPing is the payload of the PING whose answer says that the client has
// read our GOAWAY.
var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'}

// onPong takes an acknowledged PING.
func (s *ServerConn) onPong(p []byte) {
	c := &s.c
	c.mu.Lock()
	if [8]byte(p) == drainPing {
		s.lastStream()
	}
	c.unlock()
}

// lastStream says which stream is the last one that is served. The lock is
// held.
func (s *ServerConn) lastStream() {
	if s.drain != announced || s.c.err != nil {
		return
	}
	s.drain, s.drainAt = closing, time.Time{}
	s.c.appendGoAway(s.c.lastID, NoError)
	s.c.flushSoon()
	s.settle()
}

// settle ends the connection where its end is wanted and nothing is open. The
// lock is held.
func (s *ServerConn) settle() {
	c := &s.c
	if s.running > 0 || len(s.fresh) > 0 || s.drain != closing && c.goneAway == nil || c.err != nil {
		return
	}
	s.done = true
	c.fail(errDone)
	c.wakeReader()
}

var errDone = errors.New("nothing is open any more")

// Abort ends the connection at once, so that the client takes what it got for
// cut. It does not wait.
func (s *ServerConn) Abort() {
	c := &s.c
	c.mu.Lock()
	if c.err == nil {
		c.fail(ErrClosed)
	}
	c.unlock()
	exchange.Abort(c.nc)
}

// look does what is due at a time.
func (s *ServerConn) look(due func(time.Time) bool) {
	if due(s.trimAt) {
		s.trimAt = time.Time{}
		s.dismiss()
		if s.c.in.waiting {
			s.c.in.trim = true
			s.c.wakeReader()
		}
	}
	if due(s.drainAt) {
		s.lastStream()
	}
}

// onBlock takes the header list of a request, or its trailer section.
func (s *ServerConn) onBlock(id uint32, b *block, end bool) error {
	c := &s.c
	c.mu.Lock()
	defer c.unlock()
	c.floods.useful()
	if st := c.streams[id]; st != nil {
		return st.onTrailer(b, end)
	}
	switch {
	case id&1 == 0:
		return fault(ProtocolFault, "HEADERS on a stream that only we could open")
	case id <= c.lastID && c.resets.has(id):
		c.codec.putBlock(b)
		return nil
	case id <= c.lastID:
		return fault(StreamClosed, "HEADERS on a closed stream")
	}
	c.lastID = id
	switch {
	case s.drain == closing:
		// Our GOAWAY has told the client that nobody looks at this.
		c.codec.putBlock(b)
		c.resets.add(id)
		return nil
	case len(c.streams) >= int(s.o.MaxStreams), s.running+len(s.fresh) >= 2*int(s.o.MaxStreams):
		// Streams that were reset count as long as their handle runs.
		c.codec.putBlock(b)
		c.appendReset(id, RefusedStream)
		c.resets.add(id)
		return c.floods.reset()
	}
	st := c.codec.getServerStream(c)
	st.block, st.bare = b, end
	st.recvEnd = end
	st.body.ended = end
	st.declared = b.length
	st.enter(id, c.in.now)
	if !end {
		s.fresh = append(s.fresh, st)
		return nil
	}
	s.dispatch(st)
	return nil
}

// onTrailer takes a header list behind the first one of a message. The lock is
// held.
func (s *stream) onTrailer(b *block, end bool) error {
	text := b.trailerFault()
	switch {
	case s.recvEnd:
		s.c.codec.putBlock(b)
		return s.c.streamFault(s, StreamClosed, "HEADERS behind the end of the stream")
	case !end:
		text = "trailer section that does not end the stream"
	case s.declared >= 0 && s.got < s.declared:
		text = "content shorter than declared"
	}
	if text != "" {
		s.c.codec.putBlock(b)
		return s.c.streamFault(s, ProtocolFault, text)
	}
	s.trailer = b
	s.received()
	return nil
}
