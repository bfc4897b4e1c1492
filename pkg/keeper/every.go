package keeper

import (
	"context"
	"time"
)

// every gives a turn each interval, and one for each prod (nil: there is none), until
// ctx ends. What became due during a turn is one more, however long the turn was.
func every(ctx context.Context, interval time.Duration, prod <-chan struct{}) func(yield func() bool) {
	return func(yield func() bool) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-prod:
			}
			if !yield() {
				return
			}
		}
	}
}
