package sniff

import (
	"errors"
	"runtime"
	"sync/atomic"
)

// MaxLarge bounds the memory of all connections together whose first bytes do
// not fit into a usual buffer, in bytes: 170 hellos of the largest kind at once,
// or 5,000 with a large session ticket. Beyond, such a hello is refused.
const MaxLarge = 64 << 20

// errCrowded says that MaxLarge is reached.
var errCrowded = errors.New("too many large first bytes at once")

// A large is memory that counts against MaxLarge. It is given back with the last
// byte that was replayed, or when nobody holds the connection any more.
type large struct {
	held *atomic.Int64
	size atomic.Int64
}

// take counts up to size; false where there is no room.
func (l *large) take(size int64) bool {
	more := size - l.size.Load()
	if l.held.Add(more) > MaxLarge {
		l.held.Add(-more)
		return false
	}
	l.size.Store(size)
	return true
}

func (l *large) give() { l.held.Add(-l.size.Swap(0)) }

// grow gives peeked more memory; false where there is none to be had.
func (c *Conn) grow() bool {
	size := min(4*cap(c.peeked), maxRaw)
	if size <= cap(c.peeked) {
		return false
	}
	return c.enlarge(size)
}

// enlarge moves peeked into memory of size bytes.
func (c *Conn) enlarge(size int) bool {
	if c.large == nil {
		c.large = &large{held: &c.sniffer.held}
		runtime.AddCleanup(c, (*large).give, c.large)
	}
	if !c.large.take(int64(size)) {
		return false
	}
	c.peeked = append(make([]byte, 0, size), c.peeked...)
	return true
}

// Large gives how much of MaxLarge is in use.
func (s *Sniffer) Large() int64 { return s.held.Load() }
