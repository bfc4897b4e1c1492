package keeper

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// clockInterval is how often the clock is compared with the time since boot.
	clockInterval = time.Second
	// clockTolerance is how far both may part between two looks: a clock that is
	// slewed moves by 0.05 % (adjtimex(2)), and a look may come late, but both clocks
	// are read at once.
	clockTolerance = time.Second
)

// clock remembers jumps of the host's clock.
type clock struct {
	forward, backward atomic.Uint64
}

// A moment is one reading of both clocks.
type moment struct {
	wall time.Time
	boot time.Duration // CLOCK_BOOTTIME: goes on while the host sleeps
}

func readClocks() (moment, error) {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return moment{}, err
	}
	return moment{time.Now().Round(0), time.Duration(boot.Nano())}, nil
}

// jump is how far the clock was set between two readings, 0 for a little.
func jump(before, after moment) time.Duration {
	by := after.wall.Sub(before.wall) - (after.boot - before.boot)
	if by.Abs() < clockTolerance {
		return 0
	}
	return by.Round(time.Millisecond)
}

// watchClock notices when somebody sets the host's clock, until ctx ends.
func (k *Keeper) watchClock(ctx context.Context) error {
	last, err := readClocks()
	if err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	for range every(ctx, clockInterval, nil) {
		now, err := readClocks()
		if err != nil {
			return fmt.Errorf("clock: %w", err)
		}
		if by := jump(last, now); by != 0 {
			k.clockSet(by)
		}
		last = now
	}
	return nil
}

// clockSet does what a jump makes necessary: certificates may have ended, or may
// not be valid yet. Windows of rate limits follow the clock; audit events are in
// the order of their chain, whatever their times say.
func (k *Keeper) clockSet(by time.Duration) {
	direction := "forward"
	if by < 0 {
		direction = "back"
		k.clock.backward.Add(1)
	} else {
		k.clock.forward.Add(1)
	}
	k.log.Warn("the clock was set", zap.Duration("by", by))
	sentence := fmt.Sprintf("the clock was set %s by %s: times in the audit and windows of rate limits jump with it", direction, by.Abs())
	m, err := k.root.Load().Issue(time.Now())
	if err == nil {
		err = k.renew(m)
	}
	if err != nil {
		sentence += "; the issuing certificate could not be renewed: " + err.Error()
	}
	k.note(sentence)
	k.watchCertificates()
	k.prodReport()
}
