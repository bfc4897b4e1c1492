package throttle

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

var byWorkload = config.CounterKey{By: config.ByWorkload}

func tenPerSecond(burst, delay int64) config.Throttle {
	return config.Throttle{Requests: 10, Per: time.Second, Burst: burst, Delay: delay, By: byWorkload, Status: 429}
}

func newExchange(workload string) *exchange.Exchange {
	x := new(exchange.Exchange)
	x.Subject = exchange.Subject{Workload: workload, Rule: "r", Host: "api.example.com"}
	return x
}

func ask(t testing.TB, s *Stage, x *exchange.Exchange) bool {
	t.Helper()
	r := s.Request(context.Background(), x)
	if r != nil && (r.Reason != policy.Throttled || r.RetryAfter <= 0 || r.Code() != s.limits[0].conf.Status) {
		t.Errorf("refused: %+v", r)
	}
	return r == nil
}

func TestStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conf := tenPerSecond(2, 0)
		conf.Status = 503
		s := New("r", []config.Throttle{conf}, NewLevels())
		x := newExchange("w")
		if begin := time.Now(); !ask(t, s, x) || time.Since(begin) != 0 {
			t.Error("the first waits")
		}
		if !ask(t, s, newExchange("v")) {
			t.Error("another workload is refused")
		}
		var wg sync.WaitGroup
		var waited atomic.Int64
		for range 2 {
			wg.Go(func() {
				x := newExchange("w")
				if !ask(t, s, x) {
					t.Error("refused within the burst")
				}
				waited.Add(int64(x.Record.Queued))
			})
		}
		synctest.Wait()
		if s.levels.Waiting() != 2 {
			t.Errorf("%d wait", s.levels.Waiting())
		}
		if ask(t, s, newExchange("w")) {
			t.Error("admitted beyond the burst")
		}
		wg.Wait()
		if got := time.Duration(waited.Load()); got != 300*time.Millisecond {
			t.Errorf("waited %s together, want 300ms", got)
		}
		if s.levels.Waiting() != 0 {
			t.Errorf("%d wait", s.levels.Waiting())
		}
	})
}

// TestGone: who leaves while waiting ends the wait, and does not count.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("r", []config.Throttle{tenPerSecond(1, 0)}, NewLevels())
		ask(t, s, newExchange("w"))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		x := newExchange("w")
		if r := s.Request(ctx, x); r == nil {
			t.Error("went on")
		}
		if x.Record.Queued != 10*time.Millisecond {
			t.Errorf("waited %s", x.Record.Queued)
		}
		x = newExchange("w")
		if !ask(t, s, x) || x.Record.Queued != 90*time.Millisecond {
			t.Errorf("the place of who left: waited %s, want 90ms", x.Record.Queued)
		}
	})
}

func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("r", []config.Throttle{tenPerSecond(2, 0)}, NewLevels())
		p := exchange.NewPipeline(s)
		begin := time.Now()
		refused := 0
		for range 5 {
			x := newExchange("w")
			x.Subject.Observe = true
			if r := p.Request(context.Background(), x); r != nil {
				t.Errorf("refused: %v", r)
			}
			if x.Objection() != nil {
				refused++
			}
			p.End(x)
		}
		if refused != 2 || time.Since(begin) != 0 {
			t.Errorf("%d would have been refused, want 2; took %s", refused, time.Since(begin))
		}
	})
}

// TestWithdraw: what is given back makes room exactly as if it had not been.
func TestWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("r", []config.Throttle{tenPerSecond(1, 1)}, NewLevels())
		for range 50 {
			x := newExchange("w")
			if !ask(t, s, x) {
				t.Fatal("a request that does not count is refused")
			}
			s.Withdraw(x)
			s.Withdraw(x)
			s.End(x)
		}
		a, b := newExchange("w"), newExchange("w")
		if !ask(t, s, a) || !ask(t, s, b) || ask(t, s, newExchange("w")) {
			t.Error("one and a burst of one")
		}
		// Both have leaked out by now: taking them back gives nothing.
		time.Sleep(time.Second)
		ask(t, s, newExchange("w"))
		s.Withdraw(a)
		s.Withdraw(b)
		if !ask(t, s, newExchange("w")) || ask(t, s, newExchange("w")) {
			t.Error("what has leaked out was taken back")
		}
	})
}

// TestList: all must admit, and none counts what another refused.
func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		byHost := config.Throttle{Requests: 1, Per: time.Second, Burst: 2, Delay: 2, By: config.CounterKey{By: config.ByHost}, Status: 429}
		s := New("r", []config.Throttle{tenPerSecond(5, 5), byHost}, NewLevels())
		for i := range 6 {
			if got := ask(t, s, newExchange("w")); got != (i < 3) {
				t.Errorf("request %d: %v", i, got)
			}
		}
		for i := range 6 {
			x := newExchange("w")
			x.Subject.Host = fmt.Sprint(i)
			if got := ask(t, s, x); got != (i < 3) {
				t.Errorf("request %d to another host: %v", i, got)
			}
		}
	})
}

// TestQueueFull: beyond the bound nobody waits, and who is refused makes room.
func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conf := config.Throttle{Requests: 1000, Per: time.Second, Burst: 1 << 20, By: byWorkload, Status: 429}
		s := New("r", []config.Throttle{conf}, NewLevels())
		ask(t, s, newExchange("w"))
		var wg sync.WaitGroup
		for range MaxWaiting {
			wg.Go(func() { ask(t, s, newExchange("w")) })
		}
		synctest.Wait()
		for range 3 {
			if ask(t, s, newExchange("w")) {
				t.Error("admitted beyond the bound")
			}
		}
		begin := time.Now()
		wg.Wait()
		if took := time.Since(begin); took != MaxWaiting*time.Millisecond {
			t.Errorf("the last waited %s", took)
		}
		x := newExchange("w")
		ask(t, s, x)
		if x.Record.Queued != time.Millisecond {
			t.Errorf("waited %s", x.Record.Queued)
		}
	})
}

// TestConcurrent: exactly one and the burst, whoever asks, also through a reload.
func TestConcurrent(t *testing.T) {
	levels := NewLevels()
	conf := []config.Throttle{
		{Requests: 1, Per: time.Minute, Burst: 99, Delay: 99, By: byWorkload, Status: 429},
		{Requests: 1, Per: time.Minute, Burst: 150, Delay: 150, By: config.CounterKey{By: config.ByHost}, Status: 429},
	}
	stages := [...]*Stage{New("r", conf, levels), New("r", []config.Throttle{conf[1], conf[0]}, levels)}
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range 50 {
				s := stages[(g+i)%2]
				x := newExchange("w")
				if ask(t, s, x) {
					if i%2 == 0 {
						s.Withdraw(x)
					} else {
						admitted.Add(1)
					}
				}
				s.End(x)
				if i%10 == 0 {
					levels.Sweep()
				}
			}
		})
	}
	wg.Wait()
	for range 200 {
		if x := newExchange("w"); ask(t, stages[0], x) {
			admitted.Add(1)
		}
	}
	// A minute brings one more, and the test takes much less.
	if n := admitted.Load(); n < 100 || n > 101 {
		t.Errorf("%d admitted, want 100", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	conf := config.Throttle{Requests: 1 << 30, Per: time.Second, Burst: 1 << 20, Delay: 1 << 20, By: byWorkload, Status: 429}
	p := exchange.NewPipeline(New("r", []config.Throttle{conf}, NewLevels()))
	one := func(x *exchange.Exchange) {
		x.Subject = exchange.Subject{Workload: "github", Rule: "r", Host: "api.example.com"}
		if p.Request(context.Background(), x) != nil {
			b.Error("refused")
		}
		p.End(x)
		x.Reset()
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		x := new(exchange.Exchange)
		for b.Loop() {
			one(x)
		}
	})
	b.Run("in parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			x := new(exchange.Exchange)
			for pb.Next() {
				one(x)
			}
		})
	})
}
