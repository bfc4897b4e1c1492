package ratelimit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/keyed"
)

func newCounters(t testing.TB) *Counters {
	return NewCounters(NewShared(zap.NewNop(), func(s string) { t.Log(s) }))
}

var byWorkload = config.CounterKey{By: config.ByWorkload}

func local(second, minute, hour, day int64) config.RateLimit {
	return config.RateLimit{Second: second, Minute: minute, Hour: hour, Day: day, By: byWorkload, Policy: config.LocalCounters, FaultTolerant: true}
}

func newExchange(workload string, at time.Time) *exchange.Exchange {
	x := new(exchange.Exchange)
	x.Subject = exchange.Subject{Workload: workload, Rule: "r", Host: "api.example.com", Time: at}
	return x
}

// noon is in the middle of no window's edge but the hour's.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func admitted(t testing.TB, s *Stage, x *exchange.Exchange) bool {
	t.Helper()
	r := s.Request(context.Background(), x)
	if r != nil && r.Reason != policy.RateLimited {
		t.Errorf("refused: %v", r)
	}
	return r == nil
}

// TestWindows: whatever comes when, in no window of the UTC clock more is
// admitted than its limit, and what is refused had no room.
func TestWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := [windows]int64{}
		for w := range windows {
			limits[w] = rapid.SampledFrom([]int64{0, 1, 2, 3, 5, 8}).Draw(t, "limit")
		}
		s := New("r", []config.RateLimit{{Second: limits[0], Minute: limits[1], Hour: limits[2], Day: limits[3], By: byWorkload, Policy: config.LocalCounters}}, NewCounters(NewShared(zap.NewNop(), func(string) {})))
		now := noon.Unix()
		var counted [windows]map[int64]int64
		for w := range windows {
			counted[w] = map[int64]int64{}
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 1), rapid.Int64Range(0, 70), rapid.Int64Range(0, 4000), rapid.Int64Range(0, 90000)).Draw(t, "gap")
			room := true
			for w := range windows {
				if limits[w] > 0 && counted[w][now/lengths[w]] >= limits[w] {
					room = false
				}
			}
			x := newExchange("w", time.Unix(now, 0))
			r := s.Request(context.Background(), x)
			if (r == nil) != room {
				t.Fatalf("at %s: refusal %v, room %v", time.Unix(now, 0).UTC(), r, room)
			}
			withdrawn := rapid.IntRange(0, 3).Draw(t, "withdrawn") == 0
			if withdrawn {
				s.Withdraw(x)
			}
			s.End(x)
			if r == nil && !withdrawn {
				for w := range windows {
					counted[w][now/lengths[w]]++
				}
			}
		}
	})
}

// TestRetryAfter: who waits as long as told finds room, if nobody else came.
func TestRetryAfter(t *testing.T) {
	s := New("r", []config.RateLimit{local(1, 2, 3, 4)}, newCounters(t))
	at := noon.Add(17*time.Second + 300*time.Millisecond)
	for n := range 4 {
		x := newExchange("w", at)
		if !admitted(t, s, x) {
			t.Fatalf("request %d at %s", n, at)
		}
		x = newExchange("w", at)
		r := s.Request(context.Background(), x)
		if r == nil {
			t.Fatal("nothing is used up")
		}
		at = at.Add(r.RetryAfter)
	}
	if want := noon.Truncate(24 * time.Hour).Add(24 * time.Hour); at.Truncate(time.Second) != want {
		t.Errorf("after the day's limit at %s, want %s", at, want)
	}
}

// TestConcurrent: exactly the limit, whoever asks at the same time, with limits
// that share a counter and limits that do not.
func TestConcurrent(t *testing.T) {
	for _, limits := range [][]config.RateLimit{
		{local(0, 1000, 0, 0)},
		{local(0, 5000, 1000, 0)},
		{local(0, 1000, 0, 0), {Hour: 1000, By: config.CounterKey{By: config.ByRule}, Policy: config.LocalCounters}, {Day: 3000, By: config.CounterKey{By: config.ByHost}, Policy: config.LocalCounters}},
	} {
		counters := newCounters(t)
		// Two pipelines of one rule, as after a reload in the midst of requests.
		stages := [...]*Stage{New("r", limits, counters), New("r", limits, counters)}
		var n, back atomic.Int64
		var wg sync.WaitGroup
		for g := range 64 {
			wg.Go(func() {
				for i := range 100 {
					s := stages[i%2]
					x := newExchange("w", noon)
					if admitted(t, s, x) {
						// Some are given back, and somebody else may come in their place.
						if (g+i)%10 == 0 {
							s.Withdraw(x)
							back.Add(1)
						} else {
							n.Add(1)
						}
					}
					s.End(x)
				}
			})
		}
		wg.Wait()
		for range 1000 {
			if x := newExchange("w", noon); admitted(t, stages[0], x) {
				n.Add(1)
			}
		}
		if n.Load() != 1000 || back.Load() == 0 {
			t.Errorf("%d admitted, want 1000; %d given back", n.Load(), back.Load())
		}
	}
}

// TestAll: a request counts in no limit of the list if one has no room.
func TestAll(t *testing.T) {
	s := New("r", []config.RateLimit{local(0, 10, 0, 0), {Minute: 3, By: config.CounterKey{By: config.ByHost}, Policy: config.LocalCounters}}, newCounters(t))
	for i := range 8 {
		if got := admitted(t, s, newExchange("w", noon)); got != (i < 3) {
			t.Errorf("request %d: %v", i, got)
		}
	}
	for i := range 8 {
		x := newExchange("w", noon)
		x.Subject.Host = fmt.Sprint("host", i)
		if got := admitted(t, s, x); got != (i < 7) {
			t.Errorf("request %d to another host: %v", i, got)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		by   config.CounterKey
		same func(a, b *exchange.Exchange)
		diff func(a, b *exchange.Exchange)
	}{
		{config.CounterKey{By: config.ByRule}, func(_, b *exchange.Exchange) { b.Subject.Workload, b.Subject.Host = "x", "y" }, nil},
		{byWorkload, func(_, b *exchange.Exchange) { b.Subject.Host = "y" }, func(_, b *exchange.Exchange) { b.Subject.Workload = "v" }},
		{config.CounterKey{By: config.ByHost}, func(_, b *exchange.Exchange) { b.Subject.Workload = "y" }, func(_, b *exchange.Exchange) { b.Subject.Host = "v" }},
		{config.CounterKey{By: config.ByHeader, Header: "X-Key"}, func(a, b *exchange.Exchange) {
			a.Request.Header.Add("x-key", "1")
			b.Request.Header.Add("X-KEY", "1")
			b.Subject.Workload = "y"
		}, func(a, b *exchange.Exchange) {
			a.Request.Header.Add("X-Key", "1")
			b.Request.Header.Add("X-Key", "2")
		}},
		{config.CounterKey{By: config.ByHeader, Header: "X-Key"}, func(_, b *exchange.Exchange) { b.Subject.Host = "y" }, func(_, b *exchange.Exchange) { b.Subject.Workload = "v" }},
		{config.CounterKey{By: config.ByHeader, Header: "X-Key"}, func(_, b *exchange.Exchange) {}, func(_, b *exchange.Exchange) {
			b.Request.Header.Add("X-Key", "1")
			b.Request.Header.Add("X-Key", "2")
		}},
	} {
		for i, change := range []func(a, b *exchange.Exchange){tt.same, tt.diff} {
			if change == nil {
				continue
			}
			s := New("r", []config.RateLimit{{Day: 1, By: tt.by, Policy: config.LocalCounters}}, newCounters(t))
			a, b := newExchange("w", noon), newExchange("w", noon)
			change(a, b)
			if !admitted(t, s, a) || admitted(t, s, b) != (i == 1) {
				t.Errorf("%v: case %d", tt.by, i)
			}
		}
	}
}

// TestFull: a key more than there is room for is refused, and admitted when a
// window with a limit has ended.
func TestFull(t *testing.T) {
	s := New("r", []config.RateLimit{{Minute: 5, By: config.CounterKey{By: config.ByHeader, Header: "X-Key"}, Policy: config.LocalCounters}}, newCounters(t))
	ask := func(key int, at time.Time) *exchange.Refusal {
		x := newExchange("w", at)
		x.Request.Header.Add("X-Key", fmt.Sprint(key))
		defer s.End(x)
		return s.Request(context.Background(), x)
	}
	for i := range keyed.MaxShare {
		if r := ask(i, noon); r != nil {
			t.Fatalf("key %d: %v", i, r)
		}
	}
	if r := ask(keyed.MaxShare, noon); r == nil || !strings.Contains(r.Message, "keys") || r.RetryAfter == 0 {
		t.Errorf("a key too many: %v", r)
	}
	other := newExchange("v", noon)
	other.Request.Header.Add("X-Key", "another")
	if r := s.Request(context.Background(), other); r != nil {
		t.Errorf("another workload: %v", r)
	}
	if r := ask(17, noon); r != nil {
		t.Errorf("a known key: %v", r)
	}
	if r := ask(keyed.MaxShare, noon.Add(time.Minute)); r != nil {
		t.Errorf("after the minute: %v", r)
	}
	if n := s.counters.Keys(); n > 4 {
		t.Errorf("%d keys are left", n)
	}
}

// TestObserve: what is only observed is refused at the same requests, tells
// nothing, and is not stopped by a Redis that is away.
func TestObserve(t *testing.T) {
	s := New("r", []config.RateLimit{local(0, 2, 0, 0)}, newCounters(t))
	var refused int
	for range 5 {
		x := newExchange("w", noon)
		x.Subject.Observe = true
		p := exchange.NewPipeline(s)
		if r := p.Request(context.Background(), x); r != nil {
			t.Errorf("refused: %v", r)
		}
		if x.Objection() != nil {
			refused++
		}
		p.Deliver(x)
		if x.Response.Header.Len() != 0 {
			t.Error("fields were added")
		}
		p.End(x)
	}
	if refused != 3 {
		t.Errorf("%d of 5 would have been refused, want 3", refused)
	}
	s = New("r", []config.RateLimit{{Minute: 2, By: byWorkload, Policy: config.RedisCounters}}, newCounters(t))
	for i := range 3 {
		x := newExchange("w", noon)
		x.Subject.Observe = true
		if r := s.Request(context.Background(), x); (r == nil) != (i < 2) || r != nil && r.Reason != policy.RateLimited {
			t.Errorf("without Redis: %v", r)
		}
	}
}

func fields(x *exchange.Exchange) string {
	var b strings.Builder
	for name, value := range x.Response.Header.All() {
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	return b.String()
}

// TestFields: what Kong tells.
func TestFields(t *testing.T) {
	at := noon.Add(10*time.Second + 900*time.Millisecond)
	hidden := local(0, 3, 0, 0)
	hidden.HideClientHeaders = true
	for _, tt := range []struct {
		name     string
		limits   []config.RateLimit
		requests int
		want     string
	}{
		{"first", []config.RateLimit{local(0, 100, 1000, 0)}, 1,
			"RateLimit-Limit: 100\nRateLimit-Remaining: 99\nRateLimit-Reset: 50\nX-RateLimit-Limit-Minute: 100\nX-RateLimit-Remaining-Minute: 99\nX-RateLimit-Limit-Hour: 1000\nX-RateLimit-Remaining-Hour: 999\n"},
		{"the hour is closest", []config.RateLimit{local(0, 100, 50, 0)}, 1,
			"X-RateLimit-Limit-Minute: 100\nX-RateLimit-Remaining-Minute: 99\nRateLimit-Limit: 50\nRateLimit-Remaining: 49\nRateLimit-Reset: 3590\nX-RateLimit-Limit-Hour: 50\nX-RateLimit-Remaining-Hour: 49\n"},
		{"equal: the longer", []config.RateLimit{local(5, 5, 0, 0)}, 1,
			"X-RateLimit-Limit-Second: 5\nX-RateLimit-Remaining-Second: 4\nRateLimit-Limit: 5\nRateLimit-Remaining: 4\nRateLimit-Reset: 50\nX-RateLimit-Limit-Minute: 5\nX-RateLimit-Remaining-Minute: 4\n"},
		{"refused", []config.RateLimit{local(0, 2, 0, 9)}, 3,
			"RateLimit-Limit: 2\nRateLimit-Remaining: 0\nRateLimit-Reset: 50\nX-RateLimit-Limit-Minute: 2\nX-RateLimit-Remaining-Minute: 0\nX-RateLimit-Limit-Day: 9\nX-RateLimit-Remaining-Day: 7\n"},
		{"hidden", []config.RateLimit{hidden}, 4, ""},
		{"the lowest of a list", []config.RateLimit{local(0, 9, 0, 0), {Minute: 5, By: config.CounterKey{By: config.ByRule}, Policy: config.LocalCounters}}, 1,
			"RateLimit-Limit: 5\nRateLimit-Remaining: 4\nRateLimit-Reset: 50\nX-RateLimit-Limit-Minute: 5\nX-RateLimit-Remaining-Minute: 4\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := exchange.NewPipeline(New("r", tt.limits, newCounters(t)))
			for i := range tt.requests {
				x := newExchange("w", at)
				r := p.Request(context.Background(), x)
				if r != nil {
					r.Answer(&x.Request, &x.Response)
					if x.Response.Header.Get("Retry-After") != "50" || x.Response.Status != 429 {
						t.Errorf("refusal: %d, %s", x.Response.Status, fields(x))
					}
					x.Response.Header.Reset()
				}
				p.Deliver(x)
				if got := fields(x); i == tt.requests-1 && got != tt.want {
					t.Errorf("got\n%swant\n%s", got, tt.want)
				}
				p.End(x)
			}
		})
	}
	// What a cache answers does not count, and is not told as counted. A field of
	// the upstream's is replaced.
	s := New("r", []config.RateLimit{local(0, 2, 0, 0)}, newCounters(t))
	x := newExchange("w", at)
	s.Request(context.Background(), x)
	s.Withdraw(x)
	x.Response.Header.Add("ratelimit-limit", "7")
	s.Deliver(x)
	if got := fields(x); !strings.HasPrefix(got, "ratelimit-limit: 2\nRateLimit-Remaining: 2\n") {
		t.Errorf("withdrawn: %s", got)
	}
}

// TestReload: counters go on under a changed limit, and a rule that went and
// came back in its window has its own.
func TestReload(t *testing.T) {
	counters := newCounters(t)
	s := New("r", []config.RateLimit{local(0, 3, 0, 0)}, counters)
	for range 3 {
		admitted(t, s, newExchange("w", noon))
	}
	counters.Retain(map[string]bool{})
	counters.Sweep(noon)
	s = New("r", []config.RateLimit{local(0, 5, 4, 0)}, counters)
	if !admitted(t, s, newExchange("w", noon)) || admitted(t, s, newExchange("w", noon)) {
		t.Error("three counted before; the hour admits four")
	}
	counters.Retain(map[string]bool{"other": true})
	counters.Sweep(noon.Add(25 * time.Hour))
	if len(counters.tables) != 0 {
		t.Error("the table of a rule that is gone stays")
	}
}

// TestClockBack: a clock that is put back gives no window twice, unless it is by
// more than the window.
func TestClockBack(t *testing.T) {
	s := New("r", []config.RateLimit{local(0, 2, 0, 0)}, newCounters(t))
	for _, tt := range []struct {
		at   time.Time
		want bool
	}{
		{noon, true}, {noon.Add(-time.Second), true}, {noon, false}, {noon.Add(-59 * time.Second), false},
		{noon.Add(-10 * time.Minute), true}, {noon.Add(-10 * time.Minute), true}, {noon.Add(-10 * time.Minute), false},
	} {
		if got := admitted(t, s, newExchange("w", tt.at)); got != tt.want {
			t.Errorf("at %s: %v", tt.at, got)
		}
	}
}

// TestTimePasses: by the clock alone, with nothing set.
func TestTimePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("r", []config.RateLimit{local(0, 2, 0, 0)}, newCounters(t))
		for i := range 4 * 60 {
			want := i%60 < 2
			if got := admitted(t, s, newExchange("w", time.Time{})); got != want {
				t.Fatalf("second %d: %v, want %v", i, got, want)
			}
			time.Sleep(time.Second)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	for _, tt := range []struct {
		name   string
		limits []config.RateLimit
	}{
		{"two windows", []config.RateLimit{local(0, 1<<40, 1<<41, 0)}},
		{"by header", []config.RateLimit{{Minute: 1 << 40, By: config.CounterKey{By: config.ByHeader, Header: "X-Key"}, Policy: config.LocalCounters}}},
	} {
		p := exchange.NewPipeline(New("r", tt.limits, newCounters(b)))
		one := func(x *exchange.Exchange, deliver bool) {
			x.Subject = exchange.Subject{Workload: "github", Rule: "r", Host: "api.example.com", Time: noon}
			x.Request.Header.Add("X-Key", "0123456789abcdef")
			if p.Request(context.Background(), x) != nil {
				b.Error("refused")
			}
			if deliver {
				p.Deliver(x)
			}
			p.End(x)
			x.Reset()
		}
		for _, deliver := range []bool{false, true} {
			name := tt.name
			if deliver {
				name += ", told"
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				x := new(exchange.Exchange)
				for b.Loop() {
					one(x, deliver)
				}
			})
		}
		b.Run(tt.name+", in parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				x := new(exchange.Exchange)
				for pb.Next() {
					one(x, false)
				}
			})
		})
	}
}
