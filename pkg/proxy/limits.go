package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// shares count the open connections of each workload, so that one cannot take
// the places of all. Only workloads with open connections have an entry, so
// there are at most as many as connections.
type shares struct {
	mu  sync.Mutex
	all map[string]*share
}

type share struct {
	open    int // under the lock of shares
	crowded burst
	// refusedBodies and keptBodies count bytes, streams exchanges of HTTP/2,
	// repeats requests that are repeated apart.
	refusedBodies, keptBodies, streams, repeats atomic.Int64
}

// take counts a connection; ok is false beyond the limit, and then it still
// has to be given back.
func (s *shares) take(workload string, limit int) (sh *share, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]*share)
	}
	sh = s.all[workload]
	if sh == nil {
		sh = new(share)
		s.all[workload] = sh
	}
	sh.open++
	return sh, sh.open <= limit
}

func (s *shares) give(workload string, sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.open--; sh.open == 0 {
		delete(s.all, workload)
	}
}

func (s *shares) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// A burst turns many equal refusals into one event a second, so that whoever
// is refused cannot fill the audit with it.
type burst struct {
	next    atomic.Int64 // Unix nanoseconds
	pending atomic.Uint64
}

// hit counts one refusal; due says that an event for n of them is to be
// written now.
func (b *burst) hit(now time.Time) (n uint64, due bool) {
	b.pending.Add(1)
	next := b.next.Load()
	if now.UnixNano() < next || !b.next.CompareAndSwap(next, now.Add(time.Second).UnixNano()) {
		return 0, false
	}
	return b.pending.Swap(0), true
}

// reserve counts n more of something that a workload and all together have
// bounds for; false: there is no room, and nothing was counted.
func reserve(own, all *atomic.Int64, n, maxOwn, maxAll int64) bool {
	if own.Add(n) <= maxOwn {
		if all.Add(n) <= maxAll {
			return true
		}
		all.Add(-n)
	}
	own.Add(-n)
	return false
}

// release takes back what reserve has counted.
func release(own, all *atomic.Int64, n int64) {
	own.Add(-n)
	all.Add(-n)
}
