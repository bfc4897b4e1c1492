package tcpconn

import (
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxYields bounds how often the connections of one Sockets let others run
// before one of them waits for its answer. Go looks for sockets that have become
// ready only when no goroutine can run, or after 10 ms: with one processor,
// goroutines that go on yielding to each other keep all those waiting whose data
// have come. 32 turns are about half a millisecond.
const maxYields = 32

// maxMoved bounds, in bytes, what bulk flows move before the network poller has
// had a turn: a flow that never has to wait would keep it away for 10 ms at a
// time. It is about half a millisecond.
const maxMoved = 512 << 10

// bulkRead is the size in bytes from which on a read is one of a bulk flow.
const bulkRead = 8 << 10

// Sockets is what the connections of one process share. The zero value is
// ready; it must not be copied after first use.
type Sockets struct {
	// yields, and bytes moved by bulk flows, since a connection was last woken by
	// the network poller.
	yields atomic.Int32
	bytes  atomic.Int64
	bell   bell

	small, large sync.Pool // *[]byte
	lent         atomic.Int32
}

// New takes over a connection. The error is that of a closed one.
func (s *Sockets) New(c *net.TCPConn) (*Conn, error) {
	t, err := New(c)
	if err == nil {
		t.shared = s
	}
	return t, err
}

// yield lets other goroutines run, unless that was done too often.
func (s *Sockets) yield() {
	if s != nil && s.yields.Load() < maxYields {
		s.yields.Add(1)
		runtime.Gosched()
	}
}

// polled notes that the network poller has had its turn.
func (s *Sockets) polled() {
	if s == nil {
		return
	}
	if s.yields.Load() != 0 {
		s.yields.Store(0)
	}
	if s.bytes.Load() != 0 {
		s.bytes.Store(0)
	}
}

// moved counts what a flow has moved and gives the poller its turn when it is
// due.
func (s *Sockets) moved(n int) {
	if s != nil && n >= bulkRead && s.bytes.Add(int64(n)) > maxMoved {
		s.polled()
		s.bell.wait()
	}
}

// LargeBuffers tells how many large buffers flows hold at present, and how many
// they may.
func (s *Sockets) LargeBuffers() (lent, capacity int) { return int(s.lent.Load()), maxLarge }

func (s *Sockets) borrowSmall() *[]byte {
	if b, ok := s.small.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, smallCopy)
	return &b
}

// borrowLarge gives nil where too many are lent.
func (s *Sockets) borrowLarge() *[]byte {
	if s.lent.Add(1) > maxLarge {
		s.lent.Add(-1)
		return nil
	}
	if b, ok := s.large.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, largeCopy)
	return &b
}

func (s *Sockets) giveBack(b *[]byte) {
	if len(*b) == largeCopy {
		s.large.Put(b)
		s.lent.Add(-1)
		return
	}
	s.small.Put(b)
}

// A bell makes a goroutine wait until the network poller has looked at all
// sockets: it rings an eventfd (eventfd(2)) and waits to be told so by the
// poller. runtime.Gosched would not do: the poller has its turn only when no
// goroutine can run. Who comes while it rings waits for the same turn and goes
// on together with all others: one after the other, with a turn for each, some
// flows of many would wait for minutes.
type bell struct {
	once sync.Once
	raw  syscall.RawConn

	mu sync.Mutex
	// rung is closed when the turn is over; nil while nobody rings.
	rung chan struct{}
}

func (b *bell) wait() {
	b.mu.Lock()
	if rung := b.rung; rung != nil {
		b.mu.Unlock()
		<-rung
		return
	}
	rung := make(chan struct{})
	b.rung = rung
	b.mu.Unlock()
	b.ring()
	b.mu.Lock()
	b.rung = nil
	b.mu.Unlock()
	close(rung)
}

// ring is for one at a time.
func (b *bell) ring() {
	b.once.Do(func() {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return
		}
		// Closed when nothing leads to the Sockets any more (os.NewFile).
		if b.raw, err = os.NewFile(uintptr(fd), "eventfd").SyscallConn(); err != nil {
			b.raw = nil
		}
	})
	if b.raw == nil {
		// No descriptor is left: then only goroutines get their turn.
		runtime.Gosched()
		return
	}
	rung := false
	// An edge for each write, although nobody reads: the counter has room for
	// 2⁶⁴ of them.
	b.raw.Read(func(fd uintptr) bool {
		if rung {
			return true
		}
		rung = true
		one := [8]byte{1}
		_, err := syscall.Write(int(fd), one[:])
		return err != nil
	})
}
