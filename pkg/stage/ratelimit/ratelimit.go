// Package ratelimit bounds the requests of a rule in seconds, minutes, hours and
// days of the UTC clock, as Kong's rate-limiting does. A request is admitted if
// every window of every limit has room, and counts in all of them.
package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/keyed"
)

// A Stage limits one rule.
type Stage struct {
	rule    string
	buckets []bucket
	shared  *Shared
	// anyShared says that some bucket is kept in Redis, anyLocal that some is not.
	anyShared, anyLocal bool
	// tolerant says that it goes on while Redis is away.
	tolerant bool
	verdicts sync.Pool
	counters *Counters
}

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.DeliveryStage = (*Stage)(nil)
	_ exchange.WithdrawStage = (*Stage)(nil)
	_ exchange.EndStage      = (*Stage)(nil)
)

// A bucket is the limits of a rule that count the same: a request that counts
// for one counts for all, so that they share a counter and the lowest decides.
type bucket struct {
	by     config.CounterKey
	place  config.CounterPlace
	limits [windows]int64
	// shown are the windows whose limits the workload is told.
	shown  [windows]bool
	fields [windows]string
	table  *table
	// redis begins the names of its keys in Redis.
	redis string
}

// New gives the stage of a rule. Counters of a rule of that name go on.
func New(rule string, limits []config.RateLimit, counters *Counters) *Stage {
	s := &Stage{rule: rule, shared: counters.shared, tolerant: true, counters: counters}
	s.verdicts.New = func() any { return &verdict{takes: make([]taken, len(s.buckets))} }
	for i := range limits {
		l := &limits[i]
		s.tolerant = s.tolerant && (l.FaultTolerant || l.Policy != config.RedisCounters)
		at := slices.IndexFunc(s.buckets, func(b bucket) bool { return b.by == l.By && b.place == l.Policy })
		if at < 0 {
			at = len(s.buckets)
			s.buckets = append(s.buckets, bucket{by: l.By, place: l.Policy})
		}
		b := &s.buckets[at]
		for w, n := range [windows]int64{l.Second, l.Minute, l.Hour, l.Day} {
			if n > 0 && (b.limits[w] == 0 || n < b.limits[w]) {
				b.limits[w], b.shown[w] = n, !l.HideClientHeaders
				b.fields[w] = strconv.FormatInt(n, 10)
			}
		}
	}
	// Who takes several counters at once locks them in this order, whichever the
	// configuration has.
	slices.SortFunc(s.buckets, func(a, b bucket) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.by.By, b.by.By), cmp.Compare(a.by.Header, b.by.Header))
	})
	for i := range s.buckets {
		b := &s.buckets[i]
		b.table = counters.table(tableKey{rule, b.place, b.by}, b.limits)
		if b.place == config.RedisCounters {
			s.anyShared = true
			b.redis = "{" + url.QueryEscape(rule) + "}:" + byText(b.by) + ":"
		} else {
			s.anyLocal = true
		}
	}
	return s
}

func byText(by config.CounterKey) string {
	if by.By == config.ByHeader {
		return "header:" + by.Header
	}
	return string(by.By)
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return "rate_limit" }

// A verdict is what was decided about one exchange.
type verdict struct {
	// now is in seconds since 1970, by the clock of the counters.
	now   int64
	takes []taken
	// counted says that the request counts.
	counted bool
	link    *link
}

// taken is one counter of a request.
type taken struct {
	counter *counter
	// counts are what the windows hold after the request.
	counts [windows]count
	// here says that it counts in this daemon's memory, not in Redis.
	here bool
}

func (v *verdict) reset() {
	clear(v.takes)
	*v = verdict{takes: v.takes}
}

// Request implements exchange.RequestStage. A request that is refused is not
// counted, also where it is only observed: what observe mode records is what
// enforce mode would have done.
func (s *Stage) Request(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	at := x.Subject.Time
	if at.IsZero() {
		at = time.Now()
	}
	v := s.verdicts.Get().(*verdict)
	x.Keep(s, v)
	v.now = at.Unix()
	if s.anyLocal {
		if refusal := s.takeHere(x, v, config.LocalCounters); refusal != nil {
			return refusal
		}
		v.counted = true
	}
	if s.anyShared {
		if refusal := s.takeShared(x, v, at); refusal != nil {
			if v.counted {
				s.untake(v, config.LocalCounters)
				v.counted = false
			}
			return refusal
		}
		v.counted = true
	}
	return nil
}

// takeHere counts the request in all counters of that place or in none, in the
// memory of this daemon.
func (s *Stage) takeHere(x *exchange.Exchange, v *verdict, place config.CounterPlace) *exchange.Refusal {
	for !s.lock(x, v, place) {
		if i := slices.IndexFunc(s.buckets, func(b bucket) bool { return b.place == place }); v.takes[i].counter == nil {
			return s.crowded(x)
		}
	}
	var over window
	var by *bucket
	for i := range s.buckets {
		b, t := &s.buckets[i], &v.takes[i]
		if b.place != place {
			continue
		}
		t.counter.Value.roll(v.now)
		if w, full := t.counter.Value.full(&b.limits); full && (by == nil || w > over) {
			over, by = w, b
		}
	}
	for i := range s.buckets {
		t := &v.takes[i]
		if s.buckets[i].place != place {
			continue
		}
		c := &t.counter.Value
		if by == nil {
			for w := range windows {
				if place == config.LocalCounters {
					c.counts[w].n++
				} else {
					c.memory.extra[w]++
				}
			}
		}
		for w := range windows {
			t.counts[w] = count{start: c.counts[w].start, n: c.used(w)}
		}
		t.here = true
		t.counter.Unlock()
	}
	if by != nil {
		return s.refuse(x, by, over, v.now)
	}
	if !s.counters.changed.Load() {
		s.counters.changed.Store(true)
	}
	return nil
}

// lock finds and locks the counters of that place, in order. It fails where one
// was swept away just now, or there is no room for it: then none is locked, and
// for want of room none remembered.
func (s *Stage) lock(x *exchange.Exchange, v *verdict, place config.CounterPlace) bool {
	for i := range s.buckets {
		b := &s.buckets[i]
		if b.place != place {
			continue
		}
		c := b.table.Get(keyed.Key(b.by, x), x.Subject.Workload, v.now)
		v.takes[i].counter = c
		if c != nil && c.Lock() {
			continue
		}
		for j := range i {
			if s.buckets[j].place == place {
				v.takes[j].counter.Unlock()
			}
			if c == nil {
				v.takes[j].counter = nil
			}
		}
		return false
	}
	return true
}

// refuse says which limit is used up.
func (s *Stage) refuse(x *exchange.Exchange, b *bucket, w window, now int64) *exchange.Refusal {
	wait := lengths[w] - now%lengths[w]
	r := x.Refuse(policy.RateLimited, fmt.Sprintf("rate limit: rule %q admits %s a %s%s, and none is left for the next %d s; to allow more, raise rate_limit.%s of this rule",
		s.rule, requests(b.limits[w]), names[w], per(b.by), wait, names[w]))
	r.RetryAfter = time.Duration(wait) * time.Second
	return r
}

func requests(n int64) string {
	if n == 1 {
		return "1 request"
	}
	return fmt.Sprintf("%d requests", n)
}

func per(by config.CounterKey) string {
	switch by.By {
	case config.ByWorkload:
		return " for each workload"
	case config.ByHost:
		return " for each host"
	case config.ByHeader:
		return " for each value of " + by.Header
	default:
		return ""
	}
}

// crowded refuses what cannot be counted: a request that is not counted has no
// limit.
func (s *Stage) crowded(x *exchange.Exchange) *exchange.Refusal {
	r := x.Refuse(policy.RateLimited, fmt.Sprintf("rate limit: rule %q counts as many keys already as are kept, %d for one workload and %d for all; a further one is admitted when windows end. To allow it, count by workload or rule, or remove the limits of long windows", s.rule, keyed.MaxShare, MaxKeys))
	r.RetryAfter = time.Second
	return r
}

// takeShared counts the request in Redis, or here as far as that may be while
// Redis is away.
func (s *Stage) takeShared(x *exchange.Exchange, v *verdict, at time.Time) *exchange.Refusal {
	l := s.shared.link.Load()
	if l != nil && !l.away.Load() {
		if refusal, err := s.ask(x, v, l); err == nil {
			return refusal
		}
	}
	// Observing stops nobody.
	if !s.tolerant && !x.Subject.Observe {
		r := x.Refuse(policy.LimiterUnavailable, fmt.Sprintf("rate limit: the counters of rule %q are in Redis, which does not answer; they must be up to date because fault_tolerant is false", s.rule))
		r.RetryAfter = time.Second
		return r
	}
	v.link = l
	if l != nil {
		v.now = l.now(at)
	}
	return s.takeHere(x, v, config.RedisCounters)
}

// ask counts the request in Redis.
func (s *Stage) ask(x *exchange.Exchange, v *verdict, l *link) (*exchange.Refusal, error) {
	takes := make([]sharedTake, 0, len(s.buckets))
	for i := range s.buckets {
		b := &s.buckets[i]
		if b.place != config.RedisCounters {
			continue
		}
		key := keyed.Key(b.by, x)
		c := b.table.Get(key, x.Subject.Workload, v.now)
		if c == nil {
			s.forget(v, config.RedisCounters)
			return s.crowded(x), nil
		}
		v.takes[i].counter = c
		takes = append(takes, sharedTake{key: l.server.Prefix + b.redis + key, limits: &b.limits, counter: c})
	}
	answer, outages, err := l.take(takes, l.server.Timeout)
	if err != nil {
		s.shared.lost(l, outages, err)
		// Who waits for this one sees that Redis is away.
		for i := range takes {
			takes[i].settle(false)
		}
		s.forget(v, config.RedisCounters)
		return nil, err
	}
	v.now, v.link = answer.now/1_000_000, l
	var over window
	var by *bucket
	next := 0
	for i := range s.buckets {
		b := &s.buckets[i]
		if b.place != config.RedisCounters {
			continue
		}
		v.takes[i].counts = answer.states[next].counts
		next++
		for w := range windows {
			if b.limits[w] > 0 && v.takes[i].counts[w].n >= b.limits[w] && (by == nil || w > over) {
				over, by = w, b
			}
		}
	}
	if !s.counters.changed.Load() {
		s.counters.changed.Store(true)
	}
	if !answer.admitted {
		if by == nil { // a clock of Redis that jumped
			by = &s.buckets[len(s.buckets)-1]
		}
		return s.refuse(x, by, over, v.now), nil
	}
	return nil, nil
}

// forget leaves the counters of that place out of what is told.
func (s *Stage) forget(v *verdict, place config.CounterPlace) {
	for i := range s.buckets {
		if s.buckets[i].place == place {
			v.takes[i] = taken{}
		}
	}
}

// End implements exchange.EndStage.
func (s *Stage) End(x *exchange.Exchange) {
	v, ok := x.Kept(s).(*verdict)
	if !ok {
		return
	}
	x.Keep(s, nil)
	v.reset()
	s.verdicts.Put(v)
}
