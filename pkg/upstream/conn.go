package upstream

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sallyport/pkg/tcpconn"
)

// A Conn is one connection to an upstream. It is used by one exchange or
// tunnel at a time and belongs to whoever got it until Release or Close.
type Conn struct {
	// Conn is what is read and written: TLS or plain TCP.
	net.Conn
	tcp *net.TCPConn
	raw syscall.RawConn
	// socket is tcp as Conn uses it.
	socket *tcpconn.Conn
	tls    *tls.Conn
	// outer is TLS with an upstream proxy, within which all else lies.
	outer *tls.Conn
	host  *Host
	addr  netip.Addr
	// version is the TLS version, 0 in clear; protocol is what ALPN agreed on.
	version  uint16
	protocol string
	trust    *Trust
	attempts int
	// Codec is what the user of the connection keeps with it while it is idle:
	// the HTTP codec that knows its state. Where it is a Codec, the pool asks it
	// whether the connection is alive and closes the connection through it. It
	// is set before the first Release and not changed after it.
	Codec any
	abort atomic.Bool
	// slot is where the connection was last parked.
	slot   atomic.Int32
	parked atomic.Int64 // since the pool's start, in ns
	reused bool

	mu     sync.Mutex
	leg    *Leg
	base   Totals
	closed bool
	// interrupted is for good.
	interrupted bool
}

// Key is what the connection was opened for.
func (c *Conn) Key() Key { return c.host.key }

// Addr is the address that the connection goes to: that of the proxy where there
// is one.
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

// Protocol is what the upstream chose of Key.ALPN (RFC 7301), "" where it chose
// nothing.
func (c *Conn) Protocol() string { return c.protocol }

// Bare reports whether what is written to the socket is what the upstream
// reads: nothing is encrypted, neither for it nor for a proxy.
func (c *Conn) Bare() bool { return c.tls == nil && c.outer == nil }

// Socket gives the socket below. Data may be written to and read from it only
// where the connection is Bare.
func (c *Conn) Socket() *tcpconn.Conn { return c.socket }

// CloseWrite tells the upstream that nothing more will be sent: close_notify
// under TLS, FIN in clear.
func (c *Conn) CloseWrite() error {
	switch {
	case c.tls != nil:
		return c.tls.CloseWrite()
	case c.outer != nil:
		return c.outer.CloseWrite()
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
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	c.tcp.SetDeadline(time.Unix(1, 0))
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.until(t, c.Conn.SetDeadline) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.until(t, c.Conn.SetReadDeadline) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.until(t, c.Conn.SetWriteDeadline) }

// until sets a deadline, unless the connection was interrupted: who is woken by
// that and finds a later deadline would go on waiting.
func (c *Conn) until(t time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.interrupted {
		return nil
	}
	return set(t)
}

// Release gives the connection back for the next exchange of the same key. The
// caller has read one whole response and nothing is left unread.
func (c *Conn) Release() {
	if !c.host.park(c) {
		c.retire()
	}
}

// retire closes a connection that nobody uses. A codec that reads on its own
// is ended with it.
func (c *Conn) retire() {
	if codec, ok := c.Codec.(Codec); ok {
		codec.Close()
	}
	c.Close()
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

// alive reports whether an idle connection may be used again. One of HTTP/1.1
// has nothing to say: data, FIN and errors all mean that it must not be used,
// and so does what the last exchange left in the TLS layer, which would be read
// as the beginning of the next response. Of HTTP/2 only the codec knows, which
// goes on reading.
func (c *Conn) alive() bool {
	if codec, ok := c.Codec.(Codec); ok {
		return codec.Usable()
	}
	return c.socket.Silent(c.Conn)
}

// over reports whether the codec of a parked connection says that it is of no
// further use. It reads nothing and may be asked at any time.
func (c *Conn) over() bool {
	codec, ok := c.Codec.(Codec)
	return ok && !codec.Usable()
}
