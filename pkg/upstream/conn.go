package upstream

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn is one connection to an upstream. It is used by one exchange or
// tunnel at a time and belongs to whoever got it until Release or Close.
type Conn struct {
	// Conn is what is read and written: TLS or plain TCP.
	net.Conn
	tcp  *net.TCPConn
	raw  syscall.RawConn
	tls  *tls.Conn
	host *Host
	addr netip.Addr
	// version is the TLS version, 0 in clear.
	version  uint16
	trust    *Trust
	attempts int
	// Codec is what the user of the connection keeps with it while it is idle:
	// the HTTP codec that knows its state.
	Codec any
	abort atomic.Bool
	// slot is where the connection was last parked.
	slot   atomic.Int32
	parked atomic.Int64 // since the pool's start, in ns
	reused bool

	// peek is probe as a value, made once so that Alive does not allocate.
	peek  func(fd uintptr)
	quiet bool
	poll  [1]unix.PollFd

	mu     sync.Mutex
	leg    *Leg
	base   Totals
	closed bool
}

// Addr is the address that the connection goes to.
func (c *Conn) Addr() netip.Addr { return c.addr }

// Attempts counts the TCP connections that were tried to get this one; 0 for
// one that came from the pool.
func (c *Conn) Attempts() int {
	if c.reused {
		return 0
	}
	return c.attempts
}

// Reused reports whether the connection served an exchange before.
func (c *Conn) Reused() bool { return c.reused }

// TLSVersion is the version that was agreed on, 0 in clear.
func (c *Conn) TLSVersion() uint16 { return c.version }

// TCP gives the socket below. Data may be written to and read from it only
// where the connection is in clear.
func (c *Conn) TCP() *net.TCPConn { return c.tcp }

// CloseWrite tells the upstream that nothing more will be sent: close_notify
// under TLS, FIN in clear.
func (c *Conn) CloseWrite() error {
	if c.tls != nil {
		return c.tls.CloseWrite()
	}
	return c.tcp.CloseWrite()
}

// Close ends the connection and charges what it moved to its flow.
func (c *Conn) Close() error {
	if !c.finish() {
		return nil
	}
	if c.abort.Load() {
		// No close_notify: it would vouch for what was cut.
		return c.tcp.Close()
	}
	return c.Conn.Close()
}

// SetLinger is that of the socket; with 0 Close will reset the connection.
func (c *Conn) SetLinger(sec int) error {
	c.abort.Store(sec == 0)
	return c.tcp.SetLinger(sec)
}

// Abort ends the connection with a reset, so that the upstream cannot take a
// cut request for a whole one.
func (c *Conn) Abort() {
	c.SetLinger(0)
	c.Close()
}

// Silence is how long no data have passed either way.
func (c *Conn) Silence() (time.Duration, error) {
	info, err := ReadTCPInfo(c.raw)
	if err != nil {
		return 0, err
	}
	return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond, nil
}

// Interrupt makes every pending and later read and write of the connection
// fail. Unlike Close it may be called by who does not own the connection.
func (c *Conn) Interrupt() { c.tcp.SetDeadline(time.Unix(1, 0)) }

// Release gives the connection back for the next exchange of the same key. The
// caller has read one whole response and nothing is left unread.
func (c *Conn) Release() {
	if !c.host.park(c) {
		c.Close()
	}
}

// finish charges the flow; it reports false if that was done before.
func (c *Conn) finish() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.chargeLocked()
	c.closed = true
	c.leg = nil
	return true
}

func (c *Conn) chargeLocked() {
	if c.leg == nil {
		return
	}
	now, err := ReadTotals(c.raw)
	if err != nil {
		return
	}
	c.leg.charge(now, c.base)
	c.base = now
}

// settle charges l with what the connection moved until now, if it is l's.
func (c *Conn) settle(l *Leg) {
	c.mu.Lock()
	if c.leg == l && !c.closed {
		c.chargeLocked()
	}
	c.mu.Unlock()
}

// take makes l the flow that pays from here on.
func (c *Conn) take(l *Leg) {
	c.mu.Lock()
	if c.leg != l {
		c.chargeLocked()
		c.leg = l
	}
	c.mu.Unlock()
	if l != nil {
		l.use(c)
	}
}

// probe asks whether anything waits on the socket. An idle HTTP/1.1 connection
// has nothing to say: data, FIN and errors all mean that it must not be used.
func (c *Conn) probe(fd uintptr) {
	c.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	n, err := unix.Poll(c.poll[:], 0)
	for err == unix.EINTR {
		n, err = unix.Poll(c.poll[:], 0)
	}
	c.quiet = n == 0 && err == nil
}

// alive reports whether an idle connection may be used again.
func (c *Conn) alive() bool {
	c.quiet = false
	if err := c.raw.Control(c.peek); err != nil || !c.quiet {
		return false
	}
	if c.tls == nil {
		return true
	}
	// What the last exchange left in the TLS layer would be read as the
	// beginning of the next response. A read whose deadline has passed returns
	// such bytes and makes no system call.
	var b [1]byte
	c.tcp.SetReadDeadline(time.Unix(1, 0))
	n, err := c.tls.Read(b[:])
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	return c.tcp.SetReadDeadline(time.Time{}) == nil
}
