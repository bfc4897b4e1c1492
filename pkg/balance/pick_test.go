package balance

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// upstreamOf makes an upstream whose targets have these weights; they are named
// a, b, c and so on.
func upstreamOf(algorithm config.Algorithm, weights ...int) *config.Upstream {
	u := &config.Upstream{Name: "u", Algorithm: algorithm}
	for i, w := range weights {
		u.Targets = append(u.Targets, config.Target{Host: name(i), Port: 80, Weight: w})
	}
	return u
}

func name(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return fmt.Sprintf("t%d", i)
}

// apply makes a set with one upstream.
func apply(t testing.TB, u *config.Upstream) (*Set, *Upstream) {
	t.Helper()
	s := New(Options{})
	s.Apply(&config.Config{Upstreams: []config.Upstream{*u}})
	return s, s.Upstream(u.Name)
}

// take picks and ends at once.
func take(t testing.TB, u *Upstream, key uint64, tried ...*Target) *Target {
	t.Helper()
	l, ok := u.Pick(key, tried, time.Now())
	if !ok {
		t.Fatal("no target")
	}
	l.End()
	return l.Target
}

// down makes targets unhealthy.
func down(u *Upstream, targets ...int) {
	for _, i := range targets {
		u.targets[i].count(TCPFailure, threshold{tcp: 1}, "gone", time.Now())
	}
}

// TestSmooth: the order is nginx's (its sources give that of 5, 1, 1).
func TestSmooth(t *testing.T) {
	for _, tt := range []struct {
		weights []int
		want    string
	}{
		{[]int{5, 1, 1}, "aabacaa"},
		{[]int{1, 1, 1}, "abc"},
		{[]int{100, 100}, "ab"},
		{[]int{3, 1}, "aaba"},
		{[]int{2, 4, 6}, "cbacbc"},
		{[]int{7}, "a"},
	} {
		got := ""
		for _, i := range smooth(tt.weights) {
			got += name(int(i))
		}
		if got != tt.want {
			t.Errorf("%v: %s, want %s", tt.weights, got, tt.want)
		}
	}
}

// TestRoundRobin: over one period each target is chosen exactly as often as its
// weight says, whoever is down.
func TestRoundRobin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(0, 40), 1, 12).Draw(t, "weights")
		var dead []int
		for i := range weights {
			if rapid.IntRange(0, 3).Draw(t, "down") == 0 {
				dead = append(dead, i)
			}
		}
		s := New(Options{})
		s.Apply(&config.Config{Upstreams: []config.Upstream{*upstreamOf(config.RoundRobin, weights...)}})
		u := s.Upstream("u")
		down(u, dead...)
		sum := 0
		for i, w := range weights {
			if !slices.Contains(dead, i) {
				sum += w
			}
		}
		if sum == 0 {
			if _, ok := u.Pick(0, nil, time.Now()); ok {
				t.Fatal("a target where none is healthy")
			}
			return
		}
		counts := make([]int, len(weights))
		for range 2 * sum {
			l, _ := u.Pick(0, nil, time.Now())
			counts[l.Target.Index()]++
		}
		for i, w := range weights {
			if slices.Contains(dead, i) {
				w = 0
			}
			if counts[i] != 2*w {
				t.Fatalf("weights %v, down %v: %v of %d", weights, dead, counts, 2*sum)
			}
		}
	})
}

// TestLargeWeights: what cannot be had exactly is close, and nobody starves.
func TestLargeWeights(t *testing.T) {
	weights := []int{65535, 65534, 1, 30011}
	_, u := apply(t, upstreamOf(config.RoundRobin, weights...))
	const n = 1 << 17
	counts := make([]float64, len(weights))
	for range n {
		counts[take(t, u, 0).Index()]++
	}
	for i, w := range weights {
		want := float64(w) / (65535 + 65534 + 1 + 30011) * n
		if math.Abs(counts[i]-want) > want/100+2 {
			t.Errorf("target %d: %v, want about %v", i, counts[i], want)
		}
	}
}

// TestAnotherTarget: each try goes to another target while there is one.
func TestAnotherTarget(t *testing.T) {
	for _, algorithm := range []config.Algorithm{config.RoundRobin, config.LeastConn, config.Random, config.ConsistentHash} {
		c := upstreamOf(algorithm, 100, 1, 50, 7)
		c.HashOn.By = config.HashWorkload
		_, u := apply(t, c)
		for i := range 200 {
			key := u.Key(fmt.Sprint("w", i), nil)
			var tried []*Target
			for range 4 {
				tried = append(tried, take(t, u, key, tried...))
			}
			if len(slices.Compact(slices.SortedFunc(slices.Values(tried), func(a, b *Target) int { return a.index - b.index }))) != 4 {
				t.Fatalf("%s: %v", algorithm, tried)
			}
			take(t, u, key, tried...) // any will do
		}
	}
}

// TestLeastConn: the target with the fewest open exchanges for its weight; with
// none open, in turn.
func TestLeastConn(t *testing.T) {
	_, u := apply(t, upstreamOf(config.LeastConn, 200, 100, 100))
	var order strings.Builder
	for range 8 {
		order.WriteString(take(t, u, 0).Host)
	}
	if order.String() != "abcaabca" {
		t.Errorf("idle: %s", order.String())
	}
	counts := map[string]int{}
	var open []Lease
	for range 40 {
		l, _ := u.Pick(0, nil, time.Now())
		open = append(open, l)
		counts[l.Target.Host]++
	}
	if counts["a"] != 20 || counts["b"] != 10 || counts["c"] != 10 {
		t.Errorf("%v", counts)
	}
	for _, l := range open {
		if l.Target.Host == "c" {
			l.End()
		}
	}
	for range 9 {
		if l, _ := u.Pick(0, nil, time.Now()); l.Target.Host != "c" {
			t.Errorf("%s has fewer than c", l.Target)
		}
	}
}

// TestRandom: by the weights where nothing is open, and away from who is busy.
func TestRandom(t *testing.T) {
	_, u := apply(t, upstreamOf(config.Random, 300, 100, 100))
	counts := map[string]float64{}
	const n = 50_000
	for range n {
		counts[take(t, u, 0).Host]++
	}
	for host, share := range map[string]float64{"a": .6, "b": .2, "c": .2} {
		if got := counts[host] / n; math.Abs(got-share) > .02 {
			t.Errorf("%s: %v, want %v", host, got, share)
		}
	}
	u.targets[0].state.open.Store(1000)
	clear(counts)
	for range n {
		counts[take(t, u, 0).Host]++
	}
	if counts["a"] != 0 {
		t.Errorf("the busiest of any two was chosen %v times", counts["a"])
	}
}

// TestConsistentHash: a key stays with its target; when one goes only its keys
// move, by weight, and they come back with it.
func TestConsistentHash(t *testing.T) {
	c := upstreamOf(config.ConsistentHash, 100, 100, 200, 100)
	c.HashOn = config.HashKey{By: config.HashHeader, Header: "X-User"}
	_, u := apply(t, c)
	const n = 20_000
	where := func() []string {
		all := make([]string, n)
		var req exchange.Request
		for i := range all {
			req.Header.Reset()
			req.Header.Add("x-user", fmt.Sprint("user-", i))
			all[i] = take(t, u, u.Key("w", &req)).Host
		}
		return all
	}
	share := func(all []string, host string) float64 {
		k := 0
		for _, h := range all {
			if h == host {
				k++
			}
		}
		return float64(k) / n
	}
	before := where()
	for host, want := range map[string]float64{"a": .2, "b": .2, "c": .4, "d": .2} {
		if got := share(before, host); math.Abs(got-want) > .06 {
			t.Errorf("%s has %v of the keys, want about %v", host, got, want)
		}
	}
	down(u, 1)
	after := where()
	for i := range after {
		if before[i] != "b" && before[i] != after[i] {
			t.Fatalf("user-%d moved from %s to %s", i, before[i], after[i])
		}
	}
	if share(after, "b") != 0 || share(after, "a") < .2 || share(after, "c") < .4 {
		t.Error("the keys of the target that went are not spread")
	}
	u.targets[1].state.upLocked(time.Now())
	if !slices.Equal(where(), before) {
		t.Error("the keys have not come back")
	}
	if u.Key("w", new(exchange.Request)) != 0 {
		t.Error("a request without the field has a key")
	}
}

func TestHashOnPath(t *testing.T) {
	c := upstreamOf(config.ConsistentHash, 1, 1, 1)
	c.HashOn.By = config.HashPath
	_, u := apply(t, c)
	one, two := u.Key("w1", &exchange.Request{Path: "/a"}), u.Key("w2", &exchange.Request{Path: "/a"})
	if one != two || one == u.Key("w1", &exchange.Request{Path: "/b"}) || u.Key("w1", nil) != 0 {
		t.Error("the path alone is the key")
	}
}

func BenchmarkPick(b *testing.B) {
	for _, targets := range []int{2, 10, 100} {
		weights := make([]int, targets)
		for i := range weights {
			weights[i] = 1 + i%3
		}
		for _, algorithm := range []config.Algorithm{config.RoundRobin, config.LeastConn, config.Random, config.ConsistentHash} {
			c := upstreamOf(algorithm, weights...)
			c.HashOn.By = config.HashWorkload
			_, u := apply(b, c)
			now := time.Now()
			b.Run(fmt.Sprintf("%s/%d", algorithm, targets), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						l, _ := u.Pick(u.Key("workload", nil), nil, now)
						l.Answered(200)
						l.End()
					}
				})
			})
		}
	}
}

func BenchmarkBudget(b *testing.B) {
	var budget Budget
	now := time.Now()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			budget.Request(now)
		}
	})
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, algorithm := range []config.Algorithm{config.RoundRobin, config.LeastConn, config.Random, config.ConsistentHash} {
		c := upstreamOf(algorithm, 1, 2, 3)
		c.HashOn.By = config.HashWorkload
		_, u := apply(t, c)
		now := time.Now()
		if n := testing.AllocsPerRun(100, func() {
			l, _ := u.Pick(u.Key("w", nil), nil, now)
			l.Answered(200)
			l.End()
		}); n != 0 {
			t.Errorf("%s allocates %v times", algorithm, n)
		}
	}
}
