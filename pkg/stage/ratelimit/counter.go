package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/stage/keyed"
)

// MaxKeys bounds the keys of one rule that are counted apart.
const MaxKeys = keyed.Max

// A state counts the requests of one key in all windows, whichever of them have
// a limit now, so that one which a reload adds is not empty. That all windows
// have room and that the request counts in all is one step, under the lock of
// its counter, which is held for some ten nanoseconds.
type state struct {
	counts [windows]count
	// memory is of a counter that is kept in Redis; counts are then what was last
	// seen there.
	memory memory
}

type (
	counter = keyed.Entry[state]
	table   = keyed.Table[state]
)

// roll moves every count to its present window.
func (c *state) roll(now int64) {
	if c.counts[second].start == now {
		return // no other window ended without this one
	}
	for w := range windows {
		before := c.counts[w].start
		c.counts[w].roll(now, lengths[w])
		if c.counts[w].start != before {
			c.memory.extra[w], c.memory.told[w] = 0, 0
		}
	}
}

// used is how many requests were counted in the window, as far as is known here,
// with those of which that is not known yet.
func (c *state) used(w window) int64 {
	return c.counts[w].n + c.memory.extra[w] + c.memory.told[w] + c.memory.asking
}

// full gives the window without room that is longest, false where all that have
// a limit have room.
func (c *state) full(limits *[windows]int64) (window, bool) {
	for w := windows; w > 0; w-- {
		if l := limits[w-1]; l > 0 && c.used(w-1) >= l {
			return w - 1, true
		}
	}
	return 0, false
}

// ended reports whether nothing was counted in a window that goes on.
func (c *state) ended(now int64) bool {
	return c.endedOf(now, &[windows]int64{1, 1, 1, 1})
}

// endedOf is ended for the windows with a limit.
func (c *state) endedOf(now int64, limits *[windows]int64) bool {
	for w := range windows {
		if limits[w] > 0 && now < c.counts[w].start+lengths[w] && c.used(w) > 0 {
			return false
		}
	}
	return true
}

// A tableKey says whose counters a table has.
type tableKey struct {
	rule  string
	place config.CounterPlace
	by    config.CounterKey
}

// Counters are the counters of all rules, through any number of reloads: a rule
// is known by its name.
type Counters struct {
	mu     sync.Mutex
	tables map[tableKey]*table
	// used reports whether the configuration in force has a rule of that name.
	used map[string]bool
	// changed says that something was counted since the last snapshot.
	changed atomic.Bool
	shared  *Shared
}

// NewCounters gives counters without a rule; shared is where those of policy
// redis are.
func NewCounters(shared *Shared) *Counters {
	return &Counters{tables: make(map[tableKey]*table), used: make(map[string]bool), shared: shared}
}

func newTable(by config.CounterBy) *table {
	return keyed.New(by, func(c *state, now int64) bool { return c.ended(now) })
}

// table gives the table of a rule, which may have counted before. Where it is
// full a counter may go whose windows with a limit have ended.
func (s *Counters) table(key tableKey, limits [windows]int64) *table {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[key]
	if t == nil {
		t = newTable(key.by.By)
		s.tables[key] = t
	}
	t.SetEnded(func(c *state, now int64) bool { return c.endedOf(now, &limits) })
	s.used[key.rule] = true
	return t
}

// Retain says which rules there are from now on: the tables of others go when
// their windows have ended.
func (s *Counters) Retain(rules map[string]bool) {
	s.mu.Lock()
	s.used = rules
	s.mu.Unlock()
}

// Sweep takes out what has ended by that time.
func (s *Counters) Sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, t := range s.tables {
		t.Sweep(now.Unix(), func(c *state, now int64) bool { return c.ended(now) })
		if t.Len() == 0 && !s.used[key.rule] {
			delete(s.tables, key)
		}
	}
}

// Keys gives how many keys the fullest table has, of MaxKeys.
func (s *Counters) Keys() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return keyed.Fullest(s.tables)
}
