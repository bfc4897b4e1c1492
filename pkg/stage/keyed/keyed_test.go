package keyed

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport/pkg/config"
)

func neverEnds(*int, int64) bool { return false }

func TestTable(t *testing.T) {
	for _, by := range []config.CounterBy{config.ByRule, config.ByWorkload, config.ByHost, config.ByHeader} {
		table := New(by, func(v *int, _ int64) bool { return *v == 0 })
		for i := range 1000 {
			e := table.Get(fmt.Sprint(i), "w", 0)
			if !e.Lock() {
				t.Fatal("a new entry is dead")
			}
			e.Value = i % 2
			e.Unlock()
		}
		for i := range 1000 {
			if e := table.Get(fmt.Sprint(i), "w", 0); e.Key != fmt.Sprint(i) || e.Value != i%2 {
				t.Fatalf("%s: %s is %d", by, e.Key, e.Value)
			}
		}
		gone := table.Get("0", "w", 0)
		table.Sweep(0, nil)
		n := 0
		table.Each(func(e *Entry[int]) { n += e.Value })
		if n != 500 || table.Len() != 500 {
			t.Errorf("%s: %d are left, %d told", by, n, table.Len())
		}
		if gone.Lock() {
			t.Error("an entry that was taken out can be locked")
		}
		if table.Get("0", "w", 0) == gone {
			t.Error("an entry that was taken out is given again")
		}
	}
}

func TestFull(t *testing.T) {
	table := New(config.ByHeader, func(v *int, now int64) bool { return int64(*v) < now })
	fill := func(owner string, n int) {
		t.Helper()
		for i := range n {
			e := table.Get(fmt.Sprint(owner, i), owner, 0)
			if e == nil {
				t.Fatalf("%s has no place for key %d", owner, i)
			}
			e.Lock()
			e.Value = 5
			e.Unlock()
		}
	}
	fill("w", MaxShare)
	if table.Get("more", "w", 5) != nil || table.Get("w0", "w", 5) == nil {
		t.Error("one workload has its share")
	}
	if n := Fullest(map[int]*Table[int]{1: table}); n != Max {
		t.Errorf("told %d", n)
	}
	// It does not take the place of others, who may ask for the same keys.
	if table.Get("w0", "v", 0) == nil {
		t.Error("a key that is there has no place for another workload")
	}
	fill("v", MaxShare)
	if table.Get("more", "u", 5) != nil || table.Get("v0", "u", 5) == nil {
		t.Error("a full table")
	}
	if table.Get("more", "w", 6) == nil || table.Len() != 1 {
		t.Errorf("all had ended: %d are left", table.Len())
	}
	if len(table.shares) != 1 {
		t.Errorf("shares %v", table.shares)
	}
}

// TestSwept: nothing is lost that was counted in a living entry.
func TestSwept(t *testing.T) {
	// One in three is taken out, with what it has.
	var taken atomic.Int64
	table := New(config.ByHost, neverEnds)
	stop := make(chan struct{})
	var sweeper, workers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			table.Sweep(0, func(v *int, _ int64) bool {
				if rand.IntN(3) > 0 {
					return false
				}
				taken.Add(int64(*v))
				return true
			})
		}
	})
	const each = 20000
	for range 8 {
		workers.Go(func() {
			for range each {
				for {
					e := table.Get(fmt.Sprint(rand.IntN(50)), "w", 0)
					if e.Lock() {
						e.Value++
						e.Unlock()
						break
					}
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	sweeper.Wait()
	n := taken.Load()
	table.Each(func(e *Entry[int]) { n += int64(e.Value) })
	if n != 8*each {
		t.Errorf("%d of %d were counted", n, 8*each)
	}
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1, 100, Max} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := New(config.ByHeader, neverEnds)
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprintf("=%032x", i)
				table.Get(keys[i], "w", 0)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					table.Get(keys[i%n], "w", 0)
				}
			})
		})
	}
}
