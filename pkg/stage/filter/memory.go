package filter

import "sync/atomic"

// Memory bounds what the filters of all exchanges hold back together. The zero
// value has no room.
type Memory struct {
	capacity int64
	used     atomic.Int64
}

// DefaultMemory is the capacity that a host is given, in bytes.
const DefaultMemory = 256 << 20

// NewMemory gives room for that many bytes.
func NewMemory(capacity int64) *Memory { return &Memory{capacity: capacity} }

// Used gives the bytes that are held, Capacity how many may be.
func (m *Memory) Used() uint64     { return uint64(max(m.used.Load(), 0)) }
func (m *Memory) Capacity() uint64 { return uint64(m.capacity) }

// take takes n bytes; false where there is no room for them.
func (m *Memory) take(n int64) bool {
	if m.used.Add(n) > m.capacity && n > 0 {
		m.used.Add(-n)
		return false
	}
	return true
}

// A share is what one body holds.
type share struct {
	m    *Memory
	held int64
}

// grain is how exactly a share is counted: less than it is not asked for.
const grain = 32 << 10

// set makes the share n bytes.
func (s *share) set(n int64) bool {
	n = (n + grain - 1) / grain * grain
	if n == s.held {
		return true
	}
	if !s.m.take(n - s.held) {
		return false
	}
	s.held = n
	return true
}
