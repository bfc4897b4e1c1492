package keeper

import (
	"strings"
	"testing"
	"time"

	"sallyport/pkg/workload"
)

// TestQuotaPlaces: no workload takes all places, and all together not more than
// there are.
func TestQuotaPlaces(t *testing.T) {
	q := newQuota(4, 2)
	for _, w := range []uint64{1, 1, 2} {
		if why := q.full(w); why != "" {
			t.Fatal(why)
		}
		q.take(w)
	}
	if why := q.full(1); !strings.Contains(why, "its 2 of the 4") {
		t.Errorf("a third of the first: %q", why)
	}
	if why := q.full(3); why != "" {
		t.Errorf("another workload: %s", why)
	}
	q.take(3)
	if why := q.full(4); !strings.Contains(why, "all 4 places") {
		t.Errorf("a fifth: %q", why)
	}
	q.give(1)
	if q.full(1) != "" || q.full(4) != "" {
		t.Error("a place that was given back is not free")
	}
	q.give(1)
	if _, ok := q.of[1]; ok {
		t.Error("a workload without a place is remembered")
	}
}

// TestQuotaTurns: one that makes namespaces without end gets them opened at its
// rate, and others theirs meanwhile.
func TestQuotaTurns(t *testing.T) {
	q := newQuota(1000, 1000)
	now := time.Now()
	opened := func(w uint64) (n int) {
		for q.now(w, now) {
			n++
		}
		return n
	}
	if n := opened(1); n != workloadOpenBurst {
		t.Errorf("%d at once, want %d", n, workloadOpenBurst)
	}
	if n := opened(2); n != workloadOpenBurst {
		t.Errorf("%d of another at once, want %d", n, workloadOpenBurst)
	}
	now = now.Add(time.Second)
	if n := opened(1); n != workloadRate {
		t.Errorf("%d after a second, want %d", n, workloadRate)
	}
	for w := range uint64(100) {
		opened(100 + w)
	}
	now = now.Add(time.Second)
	if n := opened(3); n != openRate {
		t.Errorf("%d in all after a second, want %d", n, openRate)
	}
	if now = now.Add(time.Hour); len(q.each) < 100 {
		t.Fatalf("%d workloads", len(q.each))
	}
	if q.tidy(now); len(q.each) != 0 {
		t.Errorf("%d workloads are remembered", len(q.each))
	}
}

// TestByTurns: the first namespace of each workload comes before the second of any.
func TestByTurns(t *testing.T) {
	tree, err := workload.FindTree()
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	a, err := tree.Cgroup("/")
	if err != nil {
		t.Fatal(err)
	}
	var b workload.Cgroup // any other
	sighted := map[uint64]*sighting{1: {workload: a}, 2: {workload: a}, 3: {workload: a}, 9: {workload: b}}
	order := byTurns(sighted)
	if len(order) != 4 || order[0] != 1 || order[1] != 9 || order[2] != 2 || order[3] != 3 {
		t.Errorf("%v", order)
	}
}
