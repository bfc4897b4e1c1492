package http2

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A conn is what both sides of a connection have in common. One goroutine
// reads; any other one may append frames to the output under the lock, and
// whichever finds nobody writing writes what all have appended.
type conn struct {
	codec *Codec
	nc    net.Conn
	// Exactly one of both is set.
	srv *ServerConn
	cli *ClientConn
	// stallTime and writeTime are ours for this connection.
	stallTime, writeTime time.Duration

	in  reader
	dec decoder
	// floods are counted by the reading goroutine only.
	floods floods

	// tasks are the goroutines of the connection other than that which reads.
	tasks sync.WaitGroup

	mu  sync.Mutex
	out output
	enc *encoder
	// streams are those that the wire knows: neither closed nor reset.
	streams map[uint32]*stream
	// lastID is the highest stream that the peer (of a server) or we (of a
	// client) have opened.
	lastID uint32
	data   dataState
	// recvWindow is what the peer may still send; unsent what it may be given
	// back; withheld what is given back only when bodies are read.
	recvWindow, unsent, withheld int
	// sendWindow is what we may still send, below 0 not at all.
	sendWindow int64
	// What the peer set.
	peerWindow int64
	peerFrame  int
	resets     resetRing
	// cancels are streams whose OnCancel is to be called without the lock.
	cancels []*ServerStream
	// goneAway: the peer said GOAWAY.
	goneAway *GoAwayError
	// err is why the connection carries nothing any more.
	err   error
	watch watch
}

func (c *conn) init(codec *Codec, nc net.Conn, stall, write time.Duration) {
	if stall <= 0 {
		stall = stallTime
	}
	c.codec, c.nc, c.stallTime, c.writeTime = codec, nc, stall, min(stall, write)
	c.out.space.L = &c.mu
	c.recvWindow, c.sendWindow = initialWindow, initialWindow
	c.peerWindow, c.peerFrame = initialWindow, maxFrame
}

// begin readies what an idle, unused connection does not need. The lock is
// held.
func (c *conn) begin() {
	c.streams = make(map[uint32]*stream)
	c.floods.begin(time.Now())
	c.enc = new(encoder)
	c.enc.begin()
	c.dec.init(c)
}

// unlock lets go of the lock and calls the OnCancel of streams that ended
// under it.
func (c *conn) unlock() {
	cancels := c.cancels
	c.cancels = nil
	c.mu.Unlock()
	for _, s := range cancels {
		s.onCancel()
		c.mu.Lock()
		s.calling = false
		s.rcond.Broadcast()
		c.mu.Unlock()
	}
}

// fail ends every stream. The output is still written. The lock is held.
func (c *conn) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	for _, s := range c.streams {
		s.fail(c.streamError(err))
		s.leave()
	}
	c.out.space.Broadcast()
	c.watch.stop()
	if c.srv != nil {
		c.srv.dismiss()
	} else {
		close(c.cli.done)
	}
}

// streamError gives the error of one stream when the connection fails.
func (c *conn) streamError(err error) error {
	if err == io.ErrUnexpectedEOF && c.goneAway != nil && c.goneAway.Code != NoError {
		return c.goneAway
	}
	return err
}

// die ends the connection because of what the peer did, from any goroutine.
// The lock is held.
func (c *conn) die(err error) {
	if c.err != nil {
		return
	}
	var fault *ConnError
	if errors.As(err, &fault) {
		c.codec.counters.add(fault.Cause)
		c.appendGoAway(c.lastPeerID(), fault.Code)
	}
	c.fail(err)
	c.flushSoon()
	c.wakeReader()
}

// wakeReader makes the reading goroutine return from a read. The lock is held.
func (c *conn) wakeReader() {
	// Failing means that the connection is closed, which wakes it too.
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

// lastPeerID is the highest stream of the peer that we may have acted on.
func (c *conn) lastPeerID() uint32 {
	if c.srv != nil {
		return c.lastID
	}
	return 0
}

// run reads until the connection ends, and has the reason known.
func (c *conn) run() error {
	err := c.in.loop(c)
	c.in.drop(c)
	c.mu.Lock()
	if c.srv != nil {
		c.srv.dispatchFresh()
	}
	if err == io.EOF && len(c.streams) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if c.err == nil {
		c.die(err)
	} else {
		err = c.err
	}
	c.unlock()
	return err
}

// lastWords writes what is left, such as GOAWAY, where the peer may still read
// it. Nobody but the protection of the connection appends any longer.
func (c *conn) lastWords(err error) {
	c.mu.Lock()
	c.out.final = true
	if err == io.EOF || errors.Is(err, ErrClosed) || c.out.err != nil ||
		c.nc.SetWriteDeadline(time.Now().Add(lingerTime)) != nil {
		// The flush that may be running ends with the connection.
		c.mu.Unlock()
		return
	}
	for c.out.flushing {
		c.out.waiting++
		c.out.space.Wait()
		c.out.waiting--
	}
	c.flushLocked()
}

// linger reads on for a while so that what was written last is not destroyed:
// a close with unread input resets the connection.
func (c *conn) linger() {
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	in := c.codec.getInput()
	defer c.codec.inputs.Put(in)
	for left := maxLinger; left > 0; {
		n, err := c.nc.Read(in.b[:])
		left -= n
		if err != nil {
			return
		}
	}
}
