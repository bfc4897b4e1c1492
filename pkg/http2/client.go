package http2

import (
	"context"
	"net"
	"sync"
	"time"
)

// ClientOptions are those of the client side of a connection.
type ClientOptions struct {
	// StallTimeout is how long the server may keep its windows shut while a
	// request waits; 0 is a minute.
	StallTimeout time.Duration
}

// PeerSettings are what a server said about itself.
type PeerSettings struct {
	// ExtendedConnect: streams of other protocols may be opened (RFC 8441).
	ExtendedConnect bool
	// MaxStreams is how many streams may be open at a time.
	MaxStreams uint32
}

// A ClientConn sends requests to one server, many at a time. Its methods may
// be called from any goroutine.
type ClientConn struct {
	c conn
	// reading is the goroutine that reads.
	reading sync.WaitGroup
	// told is closed when the server's settings are here, done when the
	// connection carries nothing any more.
	told, done chan struct{}

	// Guarded by the connection's lock.
	started     bool
	heard       bool // told is closed
	taken       int  // places of streams: reserved, or open on the wire
	peerStreams uint32
	extended    bool
}

// Client gives the client side of a connection. It starts nothing: the preface
// goes with the first request, and from then on a goroutine of the connection's
// own reads, until Close.
func (c *Codec) Client(conn net.Conn, o ClientOptions) *ClientConn {
	cc := &ClientConn{told: make(chan struct{}), done: make(chan struct{}), peerStreams: assumedStreams}
	cc.c.cli = cc
	cc.c.init(c, conn, o.StallTimeout, serverWriteTime)
	return cc
}

// Start sends the preface now and waits for the server's settings. The error is
// that of ctx or why the connection ended; then the caller must Close.
func (c *ClientConn) Start(ctx context.Context) (PeerSettings, error) {
	c.c.mu.Lock()
	c.start()
	c.c.flushLocked()
	select {
	case <-c.told:
	case <-ctx.Done():
		return PeerSettings{}, ctx.Err()
	case <-c.done:
	}
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	if !c.heard {
		return PeerSettings{}, c.c.err
	}
	return PeerSettings{ExtendedConnect: c.extended, MaxStreams: c.peerStreams}, nil
}

// start appends the preface and has a goroutine read. The lock is held.
func (c *ClientConn) start() {
	if c.started || c.c.err != nil {
		return
	}
	c.started = true
	c.c.begin()
	c.c.out.b = append(c.c.output(), preface...)
	settings := make([]byte, 0, 2*6)
	settings = appendSetting(settings, settingEnablePush, 0)
	settings = appendSetting(settings, settingMaxList, maxList)
	c.c.appendSettings(settings)
	c.reading.Go(func() { c.c.lastWords(c.c.run()) })
}

// settled takes note of the server's settings. The lock is held.
func (c *ClientConn) settled() {
	if !c.heard {
		c.heard = true
		close(c.told)
	}
}

// Open reserves a place for one stream. It is free again when the stream has
// ended on the wire, at the latest with Finish. The errors, ErrStreamsExhausted
// and ErrGoingAway, mean that nothing was sent.
func (c *ClientConn) Open() (*ClientStream, error) {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	if !c.usable() {
		return nil, ErrGoingAway
	}
	if c.taken >= maxOpened || uint32(c.taken) >= c.peerStreams {
		return nil, ErrStreamsExhausted
	}
	c.taken++
	s := &ClientStream{placed: true}
	s.init(&c.c)
	s.cl = s
	return s, nil
}

// usable reports whether a new stream can be begun. The lock is held.
func (c *ClientConn) usable() bool {
	return c.c.err == nil && c.c.goneAway == nil && c.c.lastID < maxWindow-2*maxOpened
}

// Usable reports whether Open could succeed now or once a stream has ended: the
// connection stands and the server has not said GOAWAY.
func (c *ClientConn) Usable() bool {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	return c.usable()
}

// ExtendedConnect reports whether the server allows streams of other protocols
// (RFC 8441); good after Start.
func (c *ClientConn) ExtendedConnect() bool {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	return c.extended
}

// Close ends the connection and every stream on it, and waits for the
// connection's goroutines.
func (c *ClientConn) Close() error {
	c.c.mu.Lock()
	if c.c.err == nil {
		c.c.fail(ErrClosed)
		c.c.wakeReader()
	}
	c.c.out.final = true
	c.c.mu.Unlock()
	err := c.c.nc.Close()
	c.reading.Wait()
	c.c.tasks.Wait()
	c.c.mu.Lock()
	c.c.dropOutput()
	c.c.mu.Unlock()
	return err
}

// onBlock takes the header list of a response, interim or final, or its trailer
// section.
func (c *ClientConn) onBlock(id uint32, b *block, end bool) error {
	c.c.mu.Lock()
	defer c.c.unlock()
	c.c.floods.useful()
	st := c.c.streams[id]
	if st == nil {
		c.c.codec.putBlock(b)
		if c.c.idle(id) {
			return fault(ProtocolFault, "HEADERS on an idle stream")
		}
		return c.c.stray(id)
	}
	s := st.cl
	switch {
	case s.headed:
		return st.onTrailer(b, end)
	case st.recvEnd:
		c.c.codec.putBlock(b)
		return c.c.streamFault(st, StreamClosed, "HEADERS behind the end of the stream")
	case b.interim() && !end:
		return s.onInterim(b)
	}
	s.onHead(b, end)
	return nil
}
