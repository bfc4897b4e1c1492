package agent

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// held gives the bytes of heap that this process has from the system.
func held() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapSys - m.HeapReleased)
}

// TestMemoryOfABurstIsGivenBack: what a burst has left goes back to the system
// soon after it is over, although the headroom stays.
func TestMemoryOfABurstIsGivenBack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keepMemory(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for m := newMemoryUse(); m.allocated() < headroom; { // it is there
		time.Sleep(time.Millisecond)
	}
	debug.FreeOSMemory() // what is free already would not be asked for
	before := held()
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		for j := 0; j < len(burst[i]); j += 4096 {
			burst[i][j] = 1
		}
	}
	if most := held(); most < before+(48<<20) {
		t.Fatalf("a burst of 64 MiB made the process grow from %d to %d bytes", before, most)
	}
	burst = nil
	for deadline := time.Now().Add(time.Minute); held() > before+(12<<20); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes before the burst, %d after it", before, held())
		}
	}
}
