package keeper

import (
	"context"
	"time"
)

// every gives a turn each interval, and one for each prod (nil: there is none), until
// ctx ends. What became due during a turn is one more, however long the turn was.
// Turns are at multiples of the interval on the clock, so that an idle keeper wakes
// once for all that is due: waking costs as much as what is done.
func every(ctx context.Context, interval time.Duration, prod <-chan struct{}) func(yield func() bool) {
	return func(yield func() bool) {
		now := time.Now()
		tick := time.NewTicker(now.Truncate(interval).Add(interval).Sub(now))
		defer tick.Stop()
		aligned := false
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !aligned {
					tick.Reset(interval)
					aligned = true
				}
			case <-prod:
			}
			if !yield() {
				return
			}
		}
	}
}
