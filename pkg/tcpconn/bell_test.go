package tcpconn

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestBellIsFair: of many flows that wait for the poller again and again none
// is left behind.
func TestBellIsFair(t *testing.T) {
	const flows = 64
	var b bell
	var stop atomic.Bool
	var turns [flows]atomic.Int64
	var wg sync.WaitGroup
	for i := range flows {
		wg.Go(func() {
			for !stop.Load() {
				b.wait()
				turns[i].Add(1)
			}
		})
	}
	defer wg.Wait()
	defer stop.Store(true)
	var all [flows]int64
	// Where the host gives a processor to somebody else, what is queued on it waits
	// for some milliseconds: in the long run it evens out.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for i := range turns {
			all[i] = turns[i].Load()
		}
		if low, high := slices.Min(all[:]), slices.Max(all[:]); low >= 50 && high <= 20*low {
			return
		}
	}
	t.Errorf("turns: %d", all)
}
