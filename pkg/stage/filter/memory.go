package filter

import (
	"sync"
	"sync/atomic"
)

// Memory bounds what the filters of all exchanges hold back together, and those
// of one workload to half of that. The zero value has no room.
type Memory struct {
	capacity int64
	used     atomic.Int64

	mu sync.Mutex
	// holders are what workloads hold, those that hold something.
	holders map[string]int64
}

// DefaultMemory is the capacity that a host is given, in bytes.
const DefaultMemory = 256 << 20

// NewMemory gives room for that many bytes.
func NewMemory(capacity int64) *Memory {
	return &Memory{capacity: capacity, holders: make(map[string]int64)}
}

// Used gives the bytes that are held, Capacity how many may be.
func (m *Memory) Used() uint64     { return uint64(max(m.used.Load(), 0)) }
func (m *Memory) Capacity() uint64 { return uint64(m.capacity) }

// take takes n bytes for a workload; false where there is no room for them.
func (m *Memory) take(workload string, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.holders[workload] + n
	if n > 0 && (held > m.capacity/2 || m.used.Load()+n > m.capacity) {
		return false
	}
	m.used.Add(n)
	if held > 0 {
		m.holders[workload] = held
	} else {
		delete(m.holders, workload)
	}
	return true
}

// A share is what one body holds.
type share struct {
	m        *Memory
	workload string
	held     int64
}

// grain is how exactly a share is counted: less than it is not asked for.
const grain = 32 << 10

// set makes the share n bytes.
func (s *share) set(n int64) bool {
	n = (n + grain - 1) / grain * grain
	if n == s.held {
		return true
	}
	if !s.m.take(s.workload, n-s.held) {
		return false
	}
	s.held = n
	return true
}
