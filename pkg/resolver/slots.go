package resolver

import "sync"

// slots count the questions in work, in all and per workload, so that one
// workload cannot keep the others from being answered.
type slots struct {
	mu                sync.Mutex
	total             int
	perWorkload       map[string]int // no entry is 0, so it is as small as total
	max, maxPerClient int
}

func newSlots(max, maxPerClient int) *slots {
	return &slots{perWorkload: make(map[string]int), max: max, maxPerClient: maxPerClient}
}

// enter takes a place in all, before it is known who asks.
func (s *slots) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.max {
		return false
	}
	s.total++
	return true
}

func (s *slots) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
}

// take takes a place of a workload.
func (s *slots) take(workload string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perWorkload[workload] >= s.maxPerClient {
		return false
	}
	s.perWorkload[workload]++
	return true
}

func (s *slots) give(workload string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perWorkload[workload]--; s.perWorkload[workload] <= 0 {
		delete(s.perWorkload, workload)
	}
}

func (s *slots) used() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
