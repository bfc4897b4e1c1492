package tcpconn

import (
	"io"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// What Copy moves at once. Copying through memory is no dearer than splice(2) as
// long as the memory stays in the processor's cache, and needs no pipes; what
// costs is to wake up for each segment.
const (
	smallCopy = 16 << 10
	largeCopy = 256 << 10
	// maxLarge bounds the large buffers that are lent at once (16 MiB); who finds
	// none goes on with a small one.
	maxLarge = 64
)

// A flow that brings gatherAfter bytes within gatherTime (100 MB/s) is woken for
// largeCopy bytes at once, or for fewer when it has waited for gatherWait: then
// it is no longer that fast, and no byte of it waits again until it is.
const (
	gatherAfter = 1 << 20
	gatherTime  = 10 * time.Millisecond
	gatherWait  = time.Millisecond
)

// Copy passes on what src brings until src ends, and gives the number of bytes
// that dst took. While it waits for src it holds no buffer. Nobody else may read
// from src or write to dst. The error is that of either connection, nil where
// src has ended.
func Copy(dst, src *Conn) (total int64, err error) {
	c := copier{shared: src.shared, src: src}
	if c.shared == nil {
		c.shared = new(Sockets)
	}
	defer c.stop()
	try := c.read
	for {
		if err := src.raw.Read(try); err != nil {
			return total, src.fault("read", err)
		}
		if c.err != nil {
			if c.err == io.EOF {
				return total, nil
			}
			return total, src.fault("read", c.err)
		}
		n, err := dst.Write((*c.buf)[:c.n])
		total += int64(n)
		c.more = c.n >= smallCopy
		c.giveBack()
		if err != nil {
			return total, err
		}
		c.measure(n)
		c.shared.moved(n)
	}
}

// A copier is one direction of a flow.
type copier struct {
	shared *Sockets
	src    *Conn
	// buf is lent, nil while there is nothing in it.
	buf *[]byte
	n   int
	err error
	// more: the last read left something behind, or nearly so.
	more   bool
	waited bool

	// gathering: SO_RCVLOWAT is set. late is the end of its patience, which has
	// come if tooLate.
	gathering bool
	late      *time.Timer
	tooLate   atomic.Bool
	// fresh is how much came since the time since.
	fresh int
	since time.Time
}

// read makes the system call; false means to wait until there is something.
func (c *copier) read(fd uintptr) bool {
	if c.waited {
		c.waited = false
		c.shared.polled()
		if c.gathering {
			c.late.Stop()
		}
	}
	c.borrow()
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(*c.buf))), uintptr(len(*c.buf)))
		switch errno {
		case 0:
			c.n = int(n)
			if n == 0 {
				c.err = io.EOF
			}
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			c.giveBack()
			c.waited = true
			if c.gathering {
				c.late.Reset(gatherWait)
			}
			return false
		default:
			c.err = errno
			return true
		}
	}
}

// borrow takes a buffer, a large one for a flow that fills a small one.
func (c *copier) borrow() {
	if c.more {
		if c.buf = c.shared.borrowLarge(); c.buf != nil {
			return
		}
	}
	c.buf = c.shared.borrowSmall()
}

func (c *copier) giveBack() {
	if c.buf != nil {
		c.shared.giveBack(c.buf)
		c.buf, c.n = nil, 0
	}
}

// measure finds out whether the flow is one for which gathering is worth while.
func (c *copier) measure(n int) {
	if c.tooLate.CompareAndSwap(true, false) {
		c.gathering, c.fresh = false, 0
	}
	if c.gathering || !c.more {
		return
	}
	now := time.Now()
	if c.fresh == 0 {
		c.since = now
	}
	if c.fresh += n; c.fresh < gatherAfter {
		return
	}
	c.fresh = 0
	if now.Sub(c.since) > gatherTime {
		return
	}
	if c.late == nil {
		c.late = time.AfterFunc(time.Hour, c.expire)
		c.late.Stop()
	}
	c.gathering = c.src.lowWater(largeCopy) == nil
}

// expire runs when a wait has taken too long: what came until now makes the
// socket ready at once (tcp_set_rcvlowat looks for itself).
func (c *copier) expire() {
	c.tooLate.Store(true)
	c.src.lowWater(1)
}

func (c *copier) stop() {
	c.giveBack()
	if c.late != nil {
		c.late.Stop()
	}
}

// lowWater sets how much must have come before the socket is taken for readable;
// its end and errors, and a full receive buffer, make it so in any case.
func (c *Conn) lowWater(n int) error {
	var err error
	if e := c.raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
	}); e != nil {
		return e
	}
	return err
}
