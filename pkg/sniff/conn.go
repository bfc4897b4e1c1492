package sniff

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// A Conn replays what was sniffed and then is the connection under it. Its
// socket can be asked for through SyscallConn, but bytes that were sniffed and
// not yet read are here and no longer in the socket.
type Conn struct {
	net.Conn
	sniffer *Sniffer
	lent    *buffer // the memory of peeked, nil if it is not lent
	large   *large  // the memory of peeked where lent is too small, else nil
	peeked  []byte  // what is left to replay
}

var (
	_ syscall.Conn  = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)

// Peeked gives the bytes that are yet to be replayed; good until the next
// Read.
func (c *Conn) Peeked() []byte { return c.peeked }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.peeked) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.peeked)
	c.consume(n)
	return n, nil
}

// consume gives the memory back with the last byte.
func (c *Conn) consume(n int) {
	if c.peeked = c.peeked[n:]; len(c.peeked) == 0 {
		c.release()
	}
}

func (c *Conn) release() {
	if c.lent != nil {
		c.sniffer.pool.Put(c.lent)
	}
	if c.large != nil {
		c.large.give()
	}
	c.lent, c.large, c.peeked = nil, nil, nil
}

// WriteTo writes the replayed bytes and then the rest of the connection to w,
// by splice(2) where both are TCP sockets.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for len(c.peeked) > 0 {
		n, err := w.Write(c.peeked)
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
