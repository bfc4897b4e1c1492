package balance

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/pkg/config"
)

// spend gives how many of n retries the budget grants.
func spend(b *Budget, n int) int {
	granted := 0
	for range n {
		if b.Retry(time.Now()) {
			granted++
		}
	}
	return granted
}

// TestBudget: a fifth of the requests of the last ten seconds, and ten.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Budget
		if got := spend(&b, 100); got != budgetFloor {
			t.Errorf("%d without a request", got)
		}
		time.Sleep(10 * time.Second)
		for range 500 {
			b.Request(time.Now())
		}
		if got := spend(&b, 1000); got != 110 {
			t.Errorf("%d of 500 requests", got)
		}
		b.Back(time.Now())
		if got := spend(&b, 1000); got != 1 {
			t.Errorf("%d after one was given back", got)
		}
		time.Sleep(9 * time.Second)
		if got := spend(&b, 1000); got != 0 {
			t.Errorf("%d within the window", got)
		}
		time.Sleep(time.Second)
		if got := spend(&b, 1000); got != budgetFloor {
			t.Errorf("%d after the window", got)
		}
	})
}

// TestBudgetTogether: whoever asks, no more is granted.
func TestBudgetTogether(t *testing.T) {
	var b Budget
	now := time.Now()
	for range 1000 {
		b.Request(now)
	}
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if b.Retry(now) {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := granted.Load(); n > 210 || n < 200 {
		t.Errorf("%d granted of 210", n)
	}
}

// TestBudgetOutlivesReload: the budget of a rule stays with its name.
func TestBudgetOutlivesReload(t *testing.T) {
	s := New(Options{})
	c := &config.Config{Rules: []config.Rule{{Name: "a"}, {Name: "b", Stages: config.Stages{Retry: &config.Retry{Attempts: 2}}}}}
	first := s.Apply(c)
	second := s.Apply(&config.Config{Rules: []config.Rule{c.Rules[1]}})
	if first.Of(2).Budget == nil || first.Of(2).Budget != second.Of(1).Budget || first.Of(1).Budget != nil || first.Of(0).Budget != nil || first.Of(3) != (Rule{}) {
		t.Errorf("%+v, %+v", first, second)
	}
}
