package audit

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRecordReachesTheSinkPromptly(t *testing.T) {
	const promise = 5 * time.Millisecond
	sink := &memory{}
	l, _ := start(t, Options{Sink: sink})
	best := time.Hour
	// The best of many: other tests run on this machine, and it may not let us run
	// for a while.
	for i, end := 0, time.Now().Add(20*time.Second); i < 20 || best > promise && time.Now().Before(end); i++ {
		began := time.Now()
		l.Record(&Event{Kind: Exchange})
		eventually(t, "the event is written", func() bool { return bytes.Count(sink.text(), newline) == i+1 })
		best = min(best, time.Since(began))
	}
	if best > promise {
		t.Errorf("the fastest event took %s, the promise is %s", best, promise)
	}
}

func TestBatches(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	const n = 5000
	for range n {
		l.Record(&Event{Kind: Exchange})
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := len(events(t, sink.text(), "")); got != n {
		t.Errorf("%d events, want %d", got, n)
	}
	if sink.calls > n/10 {
		t.Errorf("%d writes for %d events", sink.calls, n)
	}
}

func TestIDsAreUnique(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				e := Event{Kind: Exchange}
				if i%2 == 0 {
					e.ID = l.NextID()
				}
				l.Record(&e)
				if e.Time != (time.Time{}) {
					t.Error("Record changed the event")
				}
			}
		})
	}
	wg.Wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range events(t, sink.text(), "") {
		if seen[e.ID] || e.ID == "" {
			t.Fatalf("id %q is there twice", e.ID)
		}
		seen[e.ID] = true
		if since := time.Since(e.Time); since < 0 || since > time.Minute {
			t.Fatalf("time %s", e.Time)
		}
	}
	other, _ := New(Options{Sink: sink})
	if a, b := other.NextID(), l.NextID(); a[:10] == b[:10] {
		t.Errorf("two logs give %s and %s", a, b)
	}
}

func TestChainContinues(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	l.Record(&Event{Kind: Lifecycle})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	first := sink.text()
	end := first[len(first)-128:]
	l, stop = start(t, Options{Sink: sink, End: end})
	l.Record(&Event{Kind: Lifecycle})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(events(t, sink.text(), "")); n != 2 {
		t.Errorf("%d events", n)
	}
	for _, foreign := range []string{"", "x\n", strings.Repeat("x", 200) + "\n", string(end[:127])} {
		c := chain{}
		c.resume([]byte(foreign))
		if len(c.last) != 0 {
			t.Errorf("the chain goes on from %q", foreign)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	l, err := New(Options{Sink: discard{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	e := exchangeEvent()
	e.ID = ""
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			l.Record(e)
		}
	})
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(l.Stats().Sinks[0].Lost)/float64(b.N), "lost/op")
}

type discard struct{}

func (discard) Name() string                { return "discard" }
func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestRecordDoesNotAllocate(t *testing.T) {
	l, err := New(Options{Sink: discard{}})
	if err != nil {
		t.Fatal(err)
	}
	e := exchangeEvent()
	e.ID, e.Time = "", time.Time{}
	spare := make([]byte, 0, 1<<20)
	l.ways[0].queue.take(spare)
	n := testing.AllocsPerRun(200, func() { l.Record(e) })
	// A garbage collection may empty the pool.
	if n >= 1 {
		t.Errorf("%v allocations for each event", n)
	}
}
