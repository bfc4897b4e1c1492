package http1

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// A memConn is a connection whose far end has said all that it will say. It
// counts reads and writes.
type memConn struct {
	in     []byte
	step   int // most bytes that one Read gives; 0 for all
	out    bytes.Buffer
	reads  int
	writes int
	closed bool
	// stay makes Read fail with a timeout, not end, behind the input.
	stay bool
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func (c *memConn) Read(p []byte) (int, error) {
	c.reads++
	if len(c.in) == 0 {
		if c.stay {
			return 0, timeoutError{}
		}
		return 0, io.EOF
	}
	n := len(c.in)
	if c.step > 0 {
		n = min(n, c.step)
	}
	n = copy(p, c.in[:n])
	c.in = c.in[n:]
	return n, nil
}

func (c *memConn) Write(p []byte) (int, error)      { c.writes++; return c.out.Write(p) }
func (c *memConn) Close() error                     { c.closed = true; return nil }
func (c *memConn) CloseWrite() error                { return nil }
func (c *memConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memConn) SetDeadline(time.Time) error      { return nil }
func (c *memConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }

// tcpPair gives both ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}
