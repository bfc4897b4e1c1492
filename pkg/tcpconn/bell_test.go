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
	least := func() int64 {
		all := make([]int64, flows)
		for i := range turns {
			all[i] = turns[i].Load()
		}
		return slices.Min(all)
	}
	deadline := time.Now().Add(20 * time.Second)
	for least() < 50 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	all := make([]int64, flows)
	for i := range turns {
		all[i] = turns[i].Load()
	}
	if low, high := slices.Min(all), slices.Max(all); low < 50 || high > 20*low {
		t.Errorf("between %d and %d turns", low, high)
	}
}
