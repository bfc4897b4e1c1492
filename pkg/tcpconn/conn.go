// Package tcpconn makes the reads and writes of a TCP socket cheap for a process
// that does little else.
package tcpconn

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// A Conn is a TCP connection. It differs from *net.TCPConn in what it costs:
//
// Its system calls are made without telling Go's scheduler. They never wait,
// because the socket is non-blocking, but a write of the loopback interface
// takes 10 to 20 µs, in which the scheduler would take the processor away from
// the thread and give it to another one, and look again every 20 µs.
//
// A read that follows a write first lets other goroutines run, if it is one of
// Sockets: the answer cannot be here yet, and asking for it at once costs a
// system call that finds nothing.
type Conn struct {
	*net.TCPConn
	shared  *Sockets
	raw     syscall.RawConn
	in, out transfer
	// written: nothing has been read since the last write.
	written atomic.Bool
	// noWait makes a read fail that would have to wait; heard says that one
	// got bytes or an end.
	noWait, heard bool
	// waited: the read that is going on was woken by the network poller.
	waited bool
	one    [1]byte
}

// A transfer is one direction; try is its system call, made once so that
// neither Read nor Write allocates.
type transfer struct {
	mu  sync.Mutex
	p   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

// New takes over a connection that shares nothing and does not yield. The error
// is that of a closed one.
func New(c *net.TCPConn) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	t := &Conn{TCPConn: c, raw: raw}
	t.in.try, t.out.try = t.tryRead, t.tryWrite
	return t, nil
}

// NetConn gives the connection that Conn took over.
func (c *Conn) NetConn() net.Conn { return c.TCPConn }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.written.Load() && !c.noWait {
		c.written.Store(false)
		c.shared.yield()
	}
	t := &c.in
	t.mu.Lock()
	t.p, t.n, t.err, c.waited = p, 0, nil, false
	err := c.raw.Read(t.try)
	n := t.n
	if err == nil {
		err = t.err
	}
	t.p = nil
	t.mu.Unlock()
	if err != nil {
		return 0, c.fault("read", err)
	}
	if !c.noWait {
		c.shared.moved(n)
	}
	return n, nil
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	t := &c.out
	t.mu.Lock()
	t.p, t.n, t.err = p, 0, nil
	err := c.raw.Write(t.try)
	n := t.n
	if err == nil {
		err = t.err
	}
	t.p = nil
	t.mu.Unlock()
	c.written.Store(true)
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// Silent reports whether nothing at all has come since the last read of top,
// which is c or a layer such as TLS above it: no data, no end, no error. It
// costs one system call and never waits. After false the connection is good
// for nothing but Close. Nobody else may be reading.
func (c *Conn) Silent(top io.Reader) bool {
	c.noWait, c.heard = true, false
	n, err := top.Read(c.one[:])
	c.noWait = false
	// Exactly the error of tryRead: one that net has made means that somebody
	// interrupted the connection.
	return n == 0 && !c.heard && err == os.ErrDeadlineExceeded
}

// tryRead makes the system call; false means to wait until there is something.
func (c *Conn) tryRead(fd uintptr) bool {
	t := &c.in
	if c.waited {
		c.waited = false
		c.shared.polled()
	}
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.p))), uintptr(len(t.p)))
		switch errno {
		case 0:
			t.n, c.heard = int(n), true
			if n == 0 {
				t.err = io.EOF
			}
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			if c.noWait {
				t.err = os.ErrDeadlineExceeded
			}
			c.waited = !c.noWait
			return c.noWait
		default:
			t.err, c.heard = errno, true
			return true
		}
	}
}

// tryWrite writes as much as the socket takes; false means to wait for room.
func (c *Conn) tryWrite(fd uintptr) bool {
	t := &c.out
	for t.n < len(t.p) {
		rest := t.p[t.n:]
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
		switch errno {
		case 0:
			t.n += int(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
	return true
}

// fault gives the error that *net.TCPConn would give.
func (c *Conn) fault(op string, err error) error {
	if err == io.EOF {
		return err
	}
	if c.noWait && err == os.ErrDeadlineExceeded {
		return err
	}
	var outer *net.OpError
	if errors.As(err, &outer) {
		// Of RawConn, under another name.
		outer.Op = op
		return outer
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
