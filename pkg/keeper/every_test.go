package keeper

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestEvery: a turn at each multiple of the interval and one for each prod; a turn that takes long costs
// the ticks meanwhile but one; no turn after the end.
func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		defer end()
		prod := make(chan struct{}, 1)
		start := time.Now()
		var turns []time.Duration
		for range every(ctx, time.Second, prod) {
			turns = append(turns, time.Since(start))
			switch len(turns) {
			case 1:
				time.AfterFunc(300*time.Millisecond, func() { prod <- struct{}{} })
			case 3:
				time.Sleep(2500 * time.Millisecond)
			case 5:
				time.AfterFunc(time.Millisecond, end)
			}
		}
		want := []time.Duration{time.Second, 1300 * time.Millisecond, 2 * time.Second, 4500 * time.Millisecond, 5 * time.Second}
		if !slices.Equal(turns, want) {
			t.Errorf("turns at %v, want %v", turns, want)
		}
		if now := time.Since(start); now != 5001*time.Millisecond {
			t.Errorf("the end was noticed at %v", now)
		}
		for range every(t.Context(), time.Second, nil) {
			break
		}
		if now := time.Since(start); now != 6*time.Second {
			t.Errorf("whoever begins between two seconds has the first turn at %v", now)
		}
	})
}
