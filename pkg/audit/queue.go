package audit

import (
	"sync"
	"sync/atomic"
)

// A queue is the encoded events that wait, as lines in one buffer. Its lock is
// held for one copy of a line (some 50 ns): encoding happens outside.
type queue struct {
	mu     sync.Mutex
	buf    []byte // lines without chain and brace, each ended by '\n'
	events int
	lost   uint64 // not taken since the last take
	closed bool
	// high: three quarters are used, or something was lost. Written under mu,
	// read without.
	high atomic.Bool

	maxEvents, maxBytes int
}

func (q *queue) init(events, bytes int) { q.maxEvents, q.maxBytes = events, bytes }

// add queues a line if there is room. first: the writer has to be woken.
func (q *queue) add(line []byte) (first, taken bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.events >= q.maxEvents || len(q.buf)+len(line)+1 > q.maxBytes {
		q.lost++
		q.high.Store(true)
		return q.lost == 1, false
	}
	first = q.events == 0
	q.buf = append(q.buf, line...)
	q.buf = append(q.buf, '\n')
	q.events++
	if q.events > q.maxEvents/4*3 || len(q.buf) > q.maxBytes/4*3 {
		q.high.Store(true)
	}
	return first, true
}

// take exchanges the waiting lines for an empty buffer and tells how many events
// were lost after them.
func (q *queue) take(empty []byte) (lines []byte, events int, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, events, lost = q.buf, q.events, q.lost
	q.buf, q.events, q.lost = empty[:0], 0, 0
	q.high.Store(false)
	return lines, events, lost
}

// close makes every later add a loss and gives the number of events that still
// waited.
func (q *queue) close() (events int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return q.events
}

func (q *queue) fill(s *SinkStats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.QueueEvents, s.QueueEventsCapacity = uint64(q.events), uint64(q.maxEvents)
	s.QueueBytes, s.QueueBytesCapacity = uint64(len(q.buf)), uint64(q.maxBytes)
}
