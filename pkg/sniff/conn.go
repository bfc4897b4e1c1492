package sniff

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// A Conn replays what was sniffed and then is the connection under it. Its
// socket can be asked for through SyscallConn, but bytes that were sniffed and
// not yet read are here and no longer in the socket.
type Conn struct {
	net.Conn
	sniffer *Sniffer
	peeked  *buffer // nil when nothing is left to replay
	off     int
	drained atomic.Bool
}

var (
	_ syscall.Conn  = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)

// Peeked gives the bytes that are yet to be replayed; good until the next
// Read.
func (c *Conn) Peeked() []byte {
	if c.peeked == nil {
		return nil
	}
	return c.peeked.b[c.off:]
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.peeked == nil {
		return c.Conn.Read(p)
	}
	n := copy(p, c.peeked.b[c.off:])
	c.consume(n)
	return n, nil
}

// consume gives the memory back with the last byte.
func (c *Conn) consume(n int) {
	if c.off += n; c.off == len(c.peeked.b) {
		c.release()
	}
}

func (c *Conn) release() {
	if c.peeked != nil && c.sniffer != nil {
		c.sniffer.put(c.peeked)
	}
	c.peeked, c.off = nil, 0
	c.drained.Store(true)
}

// WriteTo writes the replayed bytes and then the rest of the connection to w,
// by splice(2) where both are TCP sockets.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for c.peeked != nil {
		n, err := w.Write(c.Peeked())
		total += int64(n)
		c.consume(n)
		if err != nil {
			return total, err
		}
	}
	if other, ok := w.(*Conn); ok {
		w = other.Conn
	}
	n, err := io.Copy(w, c.Conn)
	return total + n, err
}

// ReadFrom writes what r gives to the connection, by splice(2) where r is a
// TCP socket.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if other, ok := r.(*Conn); ok {
		return other.WriteTo(c.Conn)
	}
	return io.Copy(c.Conn, r)
}

// Drained reports whether nothing is left to replay; it may be called from any
// goroutine.
func (c *Conn) Drained() bool { return c.drained.Load() }

// CloseWrite ends the sending side.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives the socket of the connection under it.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// NetConn gives the connection under it, for its socket options. Reading from
// it loses the bytes that are yet to be replayed.
func (c *Conn) NetConn() net.Conn { return c.Conn }
