package agent

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// resident gives the resident memory of this process in bytes.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestMemoryOfABurstIsGivenBack: what a burst has left goes back to the system
// soon after it is over, and keeping headroom costs nothing.
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
	runtime.GC()
	before := resident(t)
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		for j := 0; j < len(burst[i]); j += 4096 {
			burst[i][j] = 1
		}
	}
	if most := resident(t); most < before+(48<<20) {
		t.Fatalf("a burst of 64 MiB made the process grow from %d to %d bytes", before, most)
	}
	burst = nil
	for deadline := time.Now().Add(10 * time.Second); resident(t) > before+(12<<20); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes before the burst, %d after it", before, resident(t))
		}
	}
}
