// Package throttle paces the requests of a rule exactly as nginx's limit_req
// does: what comes faster than the rate is delayed, or admitted at once up to a
// burst, and refused beyond it.
package throttle

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/keyed"
)

// MaxWaiting bounds the requests that are delayed at the same time. One more
// that would have to wait is refused.
const MaxWaiting = 4096

// MaxKeys bounds the keys of one throttle that are paced apart.
const MaxKeys = keyed.Max

// A bucket is the level of one key.
type bucket struct {
	level level
	// emptied counts how often it was found empty: what was counted before that
	// has leaked out and cannot be taken back.
	emptied uint64
}

type (
	entry = keyed.Entry[bucket]
	table = keyed.Table[bucket]
)

// A tableKey says whose buckets a table has; at counts the throttles of a rule
// with the same key.
type tableKey struct {
	rule string
	by   config.CounterKey
	at   int
}

// Levels are the buckets of all rules, through any number of reloads.
type Levels struct {
	waiting atomic.Int64
	// begin is the origin of the ms clock.
	begin time.Time

	mu     sync.Mutex
	tables map[tableKey]*table
	used   map[string]bool
}

// NewLevels gives empty buckets.
func NewLevels() *Levels {
	return &Levels{begin: time.Now(), tables: make(map[tableKey]*table), used: make(map[string]bool)}
}

// Retain says which rules there are from now on: the buckets of others go.
func (s *Levels) Retain(rules map[string]bool) {
	s.mu.Lock()
	s.used = rules
	s.mu.Unlock()
}

// Sweep takes out what has run empty.
func (s *Levels) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, t := range s.tables {
		if t.Sweep(s.now()/1000, nil); !s.used[key.rule] {
			delete(s.tables, key)
		}
	}
}

// Waiting gives how many requests are delayed now, of MaxWaiting.
func (s *Levels) Waiting() int { return int(s.waiting.Load()) }

// Keys gives how many keys the fullest table has, of MaxKeys.
func (s *Levels) Keys() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return keyed.Fullest(s.tables)
}

func (s *Levels) now() int64 { return time.Since(s.begin).Milliseconds() }

func (s *Levels) table(key tableKey, l leak) *table {
	// A bucket that has run empty is as good as a new one.
	ended := func(b *bucket, _ int64) bool { return l.next(b.level, s.now()) == 0 }
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[key]
	if t == nil {
		t = keyed.New(key.by.By, ended)
		s.tables[key] = t
	}
	t.SetEnded(ended)
	s.used[key.rule] = true
	return t
}

// A Stage throttles one rule.
type Stage struct {
	rule   string
	levels *Levels
	limits []limit
	// order is that in which tables are locked, whichever the configuration has.
	order    []int
	verdicts sync.Pool
}

type limit struct {
	leak
	conf  config.Throttle
	table *table
}

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.WithdrawStage = (*Stage)(nil)
	_ exchange.EndStage      = (*Stage)(nil)
)

// New gives the stage of a rule. Buckets of a rule of that name go on.
func New(rule string, throttles []config.Throttle, levels *Levels) *Stage {
	s := &Stage{rule: rule, levels: levels, limits: make([]limit, len(throttles))}
	s.verdicts.New = func() any { return &verdict{counted: make([]counted, len(throttles))} }
	keys := make([]tableKey, len(throttles))
	same := make(map[config.CounterKey]int)
	for i, t := range throttles {
		l := newLeak(t.Requests, t.Per, t.Burst, t.Delay)
		keys[i] = tableKey{rule: rule, by: t.By, at: same[t.By]}
		same[t.By]++
		s.limits[i] = limit{leak: l, conf: t, table: levels.table(keys[i], l)}
		s.order = append(s.order, i)
	}
	slices.SortFunc(s.order, func(a, b int) int {
		x, y := keys[a], keys[b]
		return cmp.Or(cmp.Compare(x.by.By, y.by.By), cmp.Compare(x.by.Header, y.by.Header), cmp.Compare(x.at, y.at))
	})
	return s
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return "throttle" }

// A verdict is what was decided about one exchange.
type verdict struct {
	admitted bool
	counted  []counted
}

// counted is where a request counts.
type counted struct {
	entry   *entry
	emptied uint64
}

// Request implements exchange.RequestStage. A request that is refused does not
// count; one that is only observed does not wait.
func (s *Stage) Request(ctx context.Context, x *exchange.Exchange) *exchange.Refusal {
	v := s.verdicts.Get().(*verdict)
	x.Keep(s, v)
	wait, refusal := s.admit(x, v)
	if refusal != nil || wait == 0 || x.Subject.Observe {
		return refusal
	}
	if s.levels.waiting.Add(1) > MaxWaiting {
		s.levels.waiting.Add(-1)
		s.Withdraw(x)
		r := x.Refuse(policy.Throttled, fmt.Sprintf("throttle: rule %q would delay this request for %s, but %d wait already; send more slowly, or lower throttle.burst or raise throttle.delay so that fewer wait", s.rule, wait, MaxWaiting))
		r.Status, r.RetryAfter = s.limits[0].conf.Status, wait
		return r
	}
	defer s.levels.waiting.Add(-1)
	begin := time.Now()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		refusal = x.Refuse(policy.Throttled, "throttle: nobody waits any more for the request that was delayed")
		refusal.Status = s.limits[0].conf.Status
		s.Withdraw(x)
	}
	x.Record.Queued += time.Since(begin)
	return refusal
}

// admit counts the request in all buckets or in none.
func (s *Stage) admit(x *exchange.Exchange, v *verdict) (time.Duration, *exchange.Refusal) {
	now := s.levels.now()
	for {
		locked, crowded := s.lock(x, v, now)
		if crowded != nil {
			return 0, s.crowded(x, crowded)
		}
		if locked {
			break
		}
	}
	defer s.unlock(v, len(s.order))
	for i := range s.limits {
		l := &s.limits[i]
		if excess := l.next(v.counted[i].entry.Value.level, now); !l.admits(excess) {
			return 0, s.refuse(x, l, excess)
		}
	}
	var wait time.Duration
	for i := range s.limits {
		l, b := &s.limits[i], &v.counted[i].entry.Value
		excess := l.next(b.level, now)
		if excess == 0 {
			b.emptied++
		}
		wait = max(wait, l.wait(excess))
		if b.level.excess = excess; !b.level.used || now > b.level.last {
			b.level.last = now
		}
		b.level.used = true
		v.counted[i].emptied = b.emptied
	}
	v.admitted = true
	return wait, nil
}

// lock finds and locks the buckets. It fails, and locks none, where one was
// swept away just now, or where a throttle has no room for one, which it names.
func (s *Stage) lock(x *exchange.Exchange, v *verdict, now int64) (bool, *limit) {
	for n, i := range s.order {
		l := &s.limits[i]
		e := l.table.Get(keyed.Key(l.conf.By, x), x.Subject.Workload, now/1000)
		if e == nil || !e.Lock() {
			s.unlock(v, n)
			if e == nil {
				return false, l
			}
			return false, nil
		}
		v.counted[i].entry = e
	}
	return true, nil
}

// unlock unlocks the first n buckets.
func (s *Stage) unlock(v *verdict, n int) {
	for _, i := range s.order[:n] {
		v.counted[i].entry.Unlock()
	}
}

func (s *Stage) refuse(x *exchange.Exchange, l *limit, excess int64) *exchange.Refusal {
	per := "s"
	if l.conf.Per == time.Minute {
		per = "m"
	}
	r := x.Refuse(policy.Throttled, fmt.Sprintf("throttle: rule %q admits %dr/%s with a burst of %d; to allow more, raise throttle.rate or throttle.burst of this rule", s.rule, l.conf.Requests, per, l.conf.Burst))
	r.Status, r.RetryAfter = l.conf.Status, l.retry(excess)
	return r
}

// crowded refuses what cannot be counted: it would have no limit.
func (s *Stage) crowded(x *exchange.Exchange, l *limit) *exchange.Refusal {
	r := x.Refuse(policy.Throttled, fmt.Sprintf("throttle: rule %q paces as many keys already as are kept, %d for one workload and %d for all; to allow more, throttle by workload or rule", s.rule, keyed.MaxShare, MaxKeys))
	r.Status, r.RetryAfter = l.conf.Status, time.Second
	return r
}

// Withdraw implements exchange.WithdrawStage. nginx counts a request that it
// refuses later; here only what goes out counts. What has leaked out since
// stays.
func (s *Stage) Withdraw(x *exchange.Exchange) {
	v, ok := x.Kept(s).(*verdict)
	if !ok || !v.admitted {
		return
	}
	v.admitted = false
	for i := range v.counted {
		c := &v.counted[i]
		if !c.entry.Lock() {
			continue // it had run empty
		}
		if c.entry.Value.emptied == c.emptied {
			c.entry.Value.level.excess -= 1000
		}
		c.entry.Unlock()
	}
}

// End implements exchange.EndStage.
func (s *Stage) End(x *exchange.Exchange) {
	v, ok := x.Kept(s).(*verdict)
	if !ok {
		return
	}
	x.Keep(s, nil)
	clear(v.counted)
	*v = verdict{counted: v.counted}
	s.verdicts.Put(v)
}
