package ratelimit

import (
	"strconv"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// Withdraw implements exchange.WithdrawStage.
func (s *Stage) Withdraw(x *exchange.Exchange) {
	v, ok := x.Kept(s).(*verdict)
	if !ok || !v.counted {
		return
	}
	v.counted = false
	if s.anyLocal {
		s.untake(v, config.LocalCounters)
	}
	if s.anyShared {
		s.untake(v, config.RedisCounters)
	}
}

// untake takes the request back where its windows go on.
func (s *Stage) untake(v *verdict, place config.CounterPlace) {
	var back givenBack
	for i := range s.buckets {
		b, t := &s.buckets[i], &v.takes[i]
		if b.place != place {
			continue
		}
		told := t.counts // what Redis counts
		if t.here {
			told = [windows]count{}
			untake(t.counter, &t.counts, place, &told)
		}
		for w := range windows {
			t.counts[w].n = max(0, t.counts[w].n-1)
		}
		if place == config.RedisCounters && told != [windows]count{} {
			back.keys = append(back.keys, v.link.server.Prefix+b.redis+t.counter.Key)
			for w := range windows {
				start := int64(0)
				if b.limits[w] > 0 {
					start = told[w].start
				}
				back.args = append(back.args, strconv.FormatInt(start, 10))
			}
		}
	}
	if len(back.keys) > 0 {
		back.link = v.link
		select {
		case s.shared.back <- back:
		default: // it stays counted
		}
	}
	s.counters.changed.Store(true)
}

// untake takes back one request that was counted here in those windows; of a
// shared counter told gets those of which Redis has been told meanwhile. What is
// not in its table any more has no windows that go on.
func untake(counter *counter, taken *[windows]count, place config.CounterPlace, told *[windows]count) {
	if !counter.Lock() {
		return
	}
	defer counter.Unlock()
	c := &counter.Value
	for w := range windows {
		switch {
		case c.counts[w].start != taken[w].start:
		case place == config.LocalCounters:
			c.counts[w].n = max(0, c.counts[w].n-1)
		case c.memory.extra[w] > 0:
			c.memory.extra[w]--
		default:
			told[w] = taken[w]
		}
	}
}
