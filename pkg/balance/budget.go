package balance

import (
	"sync/atomic"
	"time"
)

// What a rule may send again within budgetWindow: one in budgetShare of its
// requests, and budgetFloor more, so that a rule with few requests can. An
// outage is answered by at most a fifth more requests, whatever `attempts` says.
const (
	budgetWindow = 10
	budgetShare  = 5
	budgetFloor  = 10
)

// A Budget bounds the retries of one rule, over the last ten seconds. It takes
// no lock. The zero value is ready.
type Budget struct {
	// One more than the window, so that the second that begins does not reuse one
	// that still counts.
	seconds [budgetWindow + 1]second
}

type second struct{ at, requests, retries atomic.Int64 }

func (b *Budget) second(now int64) *second {
	s := &b.seconds[now%int64(len(b.seconds))]
	if old := s.at.Load(); old != now && s.at.CompareAndSwap(old, now) {
		s.requests.Store(0)
		s.retries.Store(0)
	}
	return s
}

// Request counts a request at its first try.
func (b *Budget) Request(now time.Time) { b.second(now.Unix()).requests.Add(1) }

// Retry takes one retry out of the budget; false where nothing is left.
func (b *Budget) Retry(now time.Time) bool {
	s := b.second(now.Unix())
	s.retries.Add(1)
	var requests, retries int64
	for i := range b.seconds {
		k := &b.seconds[i]
		if age := now.Unix() - k.at.Load(); age >= 0 && age < budgetWindow {
			requests += k.requests.Load()
			retries += k.retries.Load()
		}
	}
	if retries > requests/budgetShare+budgetFloor {
		s.retries.Add(-1)
		return false
	}
	return true
}

// Back gives a retry back that was not made. It is that of the second now.
func (b *Budget) Back(now time.Time) { b.second(now.Unix()).retries.Add(-1) }
