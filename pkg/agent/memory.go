package agent

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// headroom is how much garbage may gather beyond what Go's collector allows a
	// small heap: with its 4 MiB it would run every 70 handshakes. The memory is
	// never touched, so that it is address space and nothing else.
	headroom = 16 << 20
	// trimEvery is how often it is asked whether the process is quiet: it
	// allocated less than quietBytes since the last time. What trimLeast bytes of
	// garbage, or a quarter of what is in use, take is then given back.
	trimEvery  = 250 * time.Millisecond
	quietBytes = 256 << 10
	trimLeast  = 4 << 20
)

// keepMemory makes the garbage collector run seldom while there is much to do,
// and gives back to the system what a burst has left behind once it is over,
// until ctx ends.
func keepMemory(ctx context.Context) error {
	unused := make([]byte, headroom)
	defer runtime.KeepAlive(unused)
	// Where the start has used these addresses before, Go has cleared and thereby
	// touched them. A failure costs 16 MiB and nothing else.
	_ = unix.Madvise(unused, unix.MADV_DONTNEED)
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	m := newMemoryUse()
	last, trimmed := m.allocated(), uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := m.allocated()
		quiet := now-last < quietBytes
		last = now
		if quiet && now-trimmed > max(trimLeast, m.live()/4) {
			debug.FreeOSMemory()
			last = m.allocated()
			trimmed = last
		}
	}
}

// A memoryUse reads the runtime's figures, which stop nobody.
type memoryUse struct{ samples []metrics.Sample }

func newMemoryUse() *memoryUse {
	return &memoryUse{[]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}}
}

// allocated gives the bytes allocated since the process began.
func (m *memoryUse) allocated() uint64 {
	metrics.Read(m.samples)
	return m.samples[0].Value.Uint64()
}

// live gives the bytes that the last collection left, without the headroom.
func (m *memoryUse) live() uint64 {
	return max(m.samples[1].Value.Uint64(), headroom) - headroom
}
