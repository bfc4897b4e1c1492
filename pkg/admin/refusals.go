package admin

import (
	"sync"
	"time"
)

// refusals thins out the audit events of refused peers: a workload that hammers
// the socket must not fill the audit.
type refusals struct {
	mu      sync.Mutex
	last    time.Time
	pending uint64
}

// due counts one refusal and gives how many the event to be written now stands
// for; 0: none is to be written, at most one a second is.
func (r *refusals) due(now time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending++
	if now.Sub(r.last) < time.Second {
		return 0
	}
	n := r.pending
	r.last, r.pending = now, 0
	return n
}
