package tcpconn

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A flow is a Copy between two connections, with the far ends of both.
type flow struct {
	shared   Sockets
	in, out  *net.TCPConn // who sends, who receives
	src, dst *Conn
	done     chan struct{}
	n        int64
	err      error
}

func newFlow(t testing.TB) *flow {
	t.Helper()
	f := &flow{done: make(chan struct{})}
	join := func() (*Conn, *net.TCPConn) {
		c, peer := pair(t)
		s, err := f.shared.New(c.TCPConn)
		if err != nil {
			t.Fatal(err)
		}
		return s, peer
	}
	f.src, f.in = join()
	f.dst, f.out = join()
	go func() {
		defer close(f.done)
		if f.n, f.err = Copy(f.dst, f.src); f.err == nil {
			f.err = f.dst.CloseWrite()
		}
	}()
	return f
}

// lowWaterOf reads SO_RCVLOWAT.
func lowWaterOf(t testing.TB, c *Conn) (v int) {
	t.Helper()
	err := c.raw.Control(func(fd uintptr) { v, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT) })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCopy(t *testing.T) {
	size := 1 << 30
	if testing.Short() {
		size = 64 << 20
	}
	for _, chunk := range []int{1000, 16 << 10, 1 << 20} {
		f := newFlow(t)
		block := make([]byte, chunk)
		rand.Read(block)
		total := min(size, chunk*20_000)
		total -= total % chunk
		want := sha256.New()
		go func() {
			for n := 0; n < total; n += chunk {
				want.Write(block)
				if _, err := f.in.Write(block); err != nil {
					t.Error(err)
				}
			}
			f.in.CloseWrite()
		}()
		got := sha256.New()
		n, err := io.Copy(got, f.out)
		<-f.done
		if n != int64(total) || err != nil || f.n != n || f.err != nil {
			t.Fatalf("%d of %d bytes, %v; copied %d, %v", n, total, err, f.n, f.err)
		}
		if string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Error("other bytes came out than went in")
		}
		if lent, _ := f.shared.LargeBuffers(); lent != 0 {
			t.Errorf("%d buffers are still lent", lent)
		}
	}
}

// TestCopyGathersAndLetsGo: a fast flow is woken for many bytes at once, and
// the last ones of a burst come through all the same, at once, although the
// sender keeps the connection open.
func TestCopyGathersAndLetsGo(t *testing.T) {
	f := newFlow(t)
	const burst, lastByte = 32 << 20, 200 * time.Millisecond
	block, sink := make([]byte, burst/4), make([]byte, 1<<20)
	gathered, quickest := false, time.Hour
	var waits []time.Duration
	// On a busy machine half of the last bytes may be late, but not twice.
	for round := range 16 {
		if round == 8 {
			if median(waits) <= lastByte {
				break
			}
			t.Logf("the last byte of a burst took %v, again", median(waits))
			waits = nil
		}
		for tail := range 8 {
			size := burst/8 + 1 + tail*9973
			start := time.Now()
			go f.in.Write(block[:size])
			for got := 0; got < size; {
				f.out.SetReadDeadline(time.Now().Add(time.Minute))
				n, err := f.out.Read(sink)
				got += n
				if err != nil {
					t.Fatalf("round %d: %d bytes of %d came: %v", round, got, size, err)
				}
				gathered = gathered || lowWaterOf(t, f.src) > 1
			}
			quickest = min(quickest, time.Since(start))
			begin := time.Now()
			f.in.Write([]byte("?"))
			if _, err := f.out.Read(sink[:1]); err != nil {
				t.Fatal(err)
			}
			waits = append(waits, time.Since(begin))
		}
	}
	if took := median(waits); took > lastByte {
		t.Errorf("the last byte of a burst took %v", took)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		lent, _ := f.shared.LargeBuffers()
		if lent == 0 && lowWaterOf(t, f.src) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a flow that is silent still waits for many bytes at once, or holds large buffers: %d", lent)
		}
	}
	const enough = burst / 8 / (400 << 20 / 1000) * time.Millisecond // at 400 MB/s
	switch {
	case gathered:
	case quickest < enough:
		t.Error("a fast flow is woken for each segment")
	default:
		t.Skipf("the machine is too busy for a fast flow: %v for 4 MiB", quickest)
	}
}

func median(of []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(of))[len(of)/2]
}

// TestCopySlowFlowIsNotGathered: what is not fast is passed on segment by
// segment.
func TestCopySlowFlowIsNotGathered(t *testing.T) {
	f := newFlow(t)
	p := make([]byte, 4<<10)
	for range 500 {
		f.in.Write(p)
		if _, err := io.ReadFull(f.out, p); err != nil {
			t.Fatal(err)
		}
		if n := lowWaterOf(t, f.src); n != 1 {
			t.Fatalf("SO_RCVLOWAT is %d", n)
		}
	}
}

// TestCopyBackPressure: nothing is taken from a sender that nobody reads.
func TestCopyBackPressure(t *testing.T) {
	f := newFlow(t)
	f.in.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	sent := 0
	for block := make([]byte, 1<<20); ; {
		n, err := f.in.Write(block)
		sent += n
		if err != nil {
			break
		}
		if sent > 256<<20 {
			t.Fatal("256 MiB were taken for a receiver that reads nothing")
		}
	}
	f.in.Close()
	if n, err := io.Copy(io.Discard, f.out); n != int64(sent) || err != nil {
		t.Errorf("%d of %d bytes, %v", n, sent, err)
	}
}

// TestCopyErrors: a reset on either side and an interruption end it with an
// error, so that nobody takes a part for the whole.
func TestCopyErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(f *flow)
		want error
	}{
		"the source resets":           {func(f *flow) { f.in.SetLinger(0); f.in.Close() }, syscall.ECONNRESET},
		"the source is interrupted":   {func(f *flow) { f.src.SetDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"the source is closed":        {func(f *flow) { f.src.Close() }, net.ErrClosed},
		"the receiver is closed":      {func(f *flow) { f.dst.Close(); f.in.Write([]byte("x")) }, net.ErrClosed},
		"the receiver is interrupted": {func(f *flow) { f.dst.SetDeadline(time.Unix(1, 0)); f.in.Write([]byte("x")) }, os.ErrDeadlineExceeded},
		"the receiver resets": {func(f *flow) {
			f.out.SetLinger(0)
			f.out.Close()
			for range 200 {
				f.in.Write([]byte("x"))
				time.Sleep(time.Millisecond)
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlow(t)
			f.in.Write([]byte("hello"))
			if _, err := io.ReadFull(f.out, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			tc.do(f)
			select {
			case <-f.done:
			case <-time.After(time.Minute):
				t.Fatal("it goes on")
			}
			if f.err == nil || tc.want != nil && !errors.Is(f.err, tc.want) {
				t.Errorf("%v, want %v", f.err, tc.want)
			}
		})
	}
}

// TestLargeBuffersAreBounded: who finds none goes on with a small one.
func TestLargeBuffersAreBounded(t *testing.T) {
	var s Sockets
	c := copier{shared: &s}
	lent := make([]*[]byte, 0, maxLarge)
	for range maxLarge {
		c.more = true
		c.borrow()
		if len(*c.buf) != largeCopy {
			t.Fatalf("%d bytes", len(*c.buf))
		}
		lent = append(lent, c.buf)
	}
	c.borrow()
	if n, most := s.LargeBuffers(); len(*c.buf) != smallCopy || n != most {
		t.Errorf("a buffer of %d bytes, %d of %d lent", len(*c.buf), n, most)
	}
	for _, b := range append(lent, c.buf) {
		s.giveBack(b)
	}
	if n, _ := s.LargeBuffers(); n != 0 {
		t.Errorf("%d lent", n)
	}
}

// TestBulkLetsOthersBeHeard: with one processor, a flow whose data are always
// there does not keep those waiting whose data have come: each maxMoved bytes,
// the network poller has its turn.
func TestBulkLetsOthersBeHeard(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var s Sockets
	c, peer := pair(t)
	var heard atomic.Int32
	go func() {
		for read(c) == nil {
			heard.Add(1)
		}
	}()
	const trips = 100
	for range trips {
		before := heard.Load()
		runtime.Gosched() // it waits now
		peer.Write([]byte("12345678"))
		for range maxMoved/largeCopy + 1 {
			s.moved(largeCopy)
		}
		runtime.Gosched()
		if heard.Load() == before {
			// Its turn comes by itself, but 10 ms later.
			for deadline := time.Now().Add(time.Minute); heard.Load() == before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("data that came are never heard")
				}
			}
			heard.Add(-1)
		}
	}
	if n := heard.Load(); n < trips*9/10 {
		t.Errorf("a bulk flow kept %d of %d waiting", trips-n, trips)
	}
}

func BenchmarkCopy(b *testing.B) {
	f := newFlow(b)
	p := make([]byte, 1<<20)
	go func() {
		for range b.N {
			f.in.Write(p)
		}
		f.in.CloseWrite()
	}()
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	b.ResetTimer()
	io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f.out}, make([]byte, 256<<10))
}
