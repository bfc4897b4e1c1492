package ratelimit

import (
	"context"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
	"sallyport/pkg/policy"
)

// TestOutage: with Redis stopped, each daemon admits at most the limit less what
// it saw last, also when Redis comes back with nothing; the next window is exact.
func TestOutage(t *testing.T) {
	sameDay(t)
	r := startRedis(t)
	const limit = 100
	limits := []config.RateLimit{inRedis(0, 0, 0, limit)}
	daemons := []*daemon{startDaemon(t, r.connect, limits), startDaemon(t, r.connect, limits), startDaemon(t, r.connect, limits)}
	seen := []int{10, 10 + 20, 10 + 20 + 30}
	for i, n := range []int{10, 20, 30} {
		if got := daemons[i].ask(t, n); got != n {
			t.Fatalf("daemon %d: %d of %d", i, got, n)
		}
	}
	r.stop()
	after := make([]int, len(daemons))
	after[0] = daemons[0].ask(t, 40)
	after[1] = daemons[1].ask(t, 500)
	if after[0] != 40 || after[1] != limit-seen[1] {
		t.Errorf("without Redis %v, want 40 and %d", after, limit-seen[1])
	}
	r.start()
	for _, d := range daemons[:2] {
		d.waitFor(t, true)
	}
	for i := len(daemons) - 1; i >= 0; i-- {
		if after[i] += daemons[i].ask(t, 500); after[i] > limit-seen[i] {
			t.Errorf("daemon %d: %d admitted after it had seen %d of %d", i, after[i], seen[i], limit)
		}
	}
	t.Logf("after the outage: %v", after)
	// The next window: other keys, as nobody wants to wait for a day.
	total := 0
	for _, d := range daemons {
		d.Stage = New("next", limits, d.Counters)
		total += d.ask(t, 70)
	}
	if total != limit {
		t.Errorf("%d admitted after the outage, want %d", total, limit)
	}
}

// TestOlder: a Redis that comes back with what it had some time ago does not
// admit again what a daemon has seen since.
func TestOlder(t *testing.T) {
	sameDay(t)
	r := startRedis(t)
	limits := []config.RateLimit{inRedis(0, 0, 0, 100)}
	d := startDaemon(t, r.connect, limits)
	if n := d.ask(t, 10); n != 10 {
		t.Fatal(n)
	}
	c := *d.Counters.shared.link.Load().client.Load()
	if err := c.Do(context.Background(), c.B().Save().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if n := d.ask(t, 60); n != 60 {
		t.Fatal(n)
	}
	r.stop()
	if n := d.ask(t, 5); n != 5 {
		t.Errorf("without Redis: %d of 5", n)
	}
	r.start()
	d.waitFor(t, true)
	if n := d.ask(t, 100); n != 25 {
		t.Errorf("%d more admitted, want 25", n)
	}
	// A daemon that begins anew knows what Redis was told.
	if n := startDaemon(t, r.connect, limits).ask(t, 10); n != 0 {
		t.Errorf("another daemon: %d", n)
	}
}

// TestOutageWindows: the first full second after Redis is back is exact.
func TestOutageWindows(t *testing.T) {
	r := startRedis(t)
	limits := []config.RateLimit{inRedis(0, 0, 0, 1000), inRedis(5, 0, 0, 0)}
	a, b := startDaemon(t, r.connect, limits), startDaemon(t, r.connect, limits)
	// both asks within one second, by the clock that a daemon knows of Redis: well
	// behind its beginning, and again where the machine was too slow.
	both := func() (admitted int) {
		for range 10 {
			begin := time.Now().Truncate(time.Second).Add(time.Second)
			time.Sleep(time.Until(begin.Add(200 * time.Millisecond)))
			admitted = a.ask(t, 20) + b.ask(t, 20)
			if time.Since(begin) < time.Second {
				break
			}
		}
		return admitted
	}
	if n := both(); n != 5 {
		t.Errorf("before: %d", n)
	}
	r.stop()
	if n := both(); n != 10 {
		t.Errorf("without Redis: %d, want 5 of each", n)
	}
	r.start()
	a.waitFor(t, true)
	b.waitFor(t, true)
	if n := both(); n != 5 {
		t.Errorf("after: %d", n)
	}
}

// TestHanging: nobody waits for a Redis that does not answer longer than the
// timeout, and after the first nobody at all.
func TestHanging(t *testing.T) {
	sameDay(t)
	r := startRedis(t)
	connect := r.connect
	connect.Timeout = 4 * time.Second
	limits := []config.RateLimit{inRedis(0, 0, 0, 1000)}
	d := startDaemon(t, connect, limits)
	d.waitFor(t, true)
	strict := inRedis(0, 0, 0, 1000)
	strict.FaultTolerant = false
	s := New("strict", []config.RateLimit{strict}, d.Counters)
	r.cmd.Process.Signal(unix.SIGSTOP)
	slowest := func() (slowest time.Duration) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				x := newExchange("w", time.Time{})
				begin := time.Now()
				if refusal := d.Stage.Request(context.Background(), x); refusal != nil {
					t.Errorf("refused: %v", refusal)
				}
				took := time.Since(begin)
				mu.Lock()
				slowest = max(slowest, took)
				mu.Unlock()
			})
		}
		wg.Wait()
		return slowest
	}
	if took := slowest(); took > 3*connect.Timeout {
		t.Errorf("the first wait %s", took)
	}
	if took := slowest(); took > connect.Timeout/2 {
		t.Errorf("the next wait %s", took)
	}
	if refusal := s.Request(context.Background(), newExchange("w", time.Time{})); refusal == nil || refusal.Reason != policy.LimiterUnavailable || refusal.Code() != 503 {
		t.Errorf("strict: %v", refusal)
	}
	r.cmd.Process.Signal(unix.SIGCONT)
	d.waitFor(t, true)
	if refusal := s.Request(context.Background(), newExchange("w", time.Time{})); refusal != nil {
		t.Errorf("strict, with Redis: %v", refusal)
	}
}

// TestNoRedis: a Redis that is not there at the start, and an address that
// nobody answers.
func TestNoRedis(t *testing.T) {
	r := startRedis(t)
	r.stop()
	d := startDaemon(t, r.connect, []config.RateLimit{inRedis(0, 0, 0, 10)})
	if n := d.ask(t, 20); n != 10 {
		t.Errorf("%d admitted", n)
	}
	r.start()
	d.waitFor(t, true)
	begin := time.Now()
	nobody := Server{Redis: config.Redis{Address: "192.0.2.1:6379", Timeout: 50 * time.Millisecond}}
	if err := d.Counters.shared.Use(nobody); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a reload waits %s", took)
	}
}

// TestTelling: what was let through without Redis is known there before anybody
// else is admitted, however long it takes to tell.
func TestTelling(t *testing.T) {
	sameDay(t)
	r := startRedis(t)
	d := startDaemon(t, r.connect, []config.RateLimit{inRedis(0, 0, 0, 10)})
	if n := d.ask(t, 1); n != 1 {
		t.Fatal(n)
	}
	r.stop()
	if n := d.ask(t, 5); n != 5 {
		t.Fatal(n)
	}
	r.start()
	d.waitFor(t, true)
	b := &d.Stage.buckets[0]
	l := d.Counters.shared.link.Load()
	slow := sharedTake{key: "test:" + b.redis + "w", limits: &b.limits, counter: b.table.Get("w", "w", 0)}
	slow.lock(l)
	slow.appendArgs(nil, l.outages.Load())
	if slow.extra[day] != 5 {
		t.Fatalf("told %v", slow.extra)
	}
	admitted := make(chan int)
	go func() { admitted <- d.ask(t, 20) }()
	select {
	case n := <-admitted:
		t.Errorf("%d overtook what was being told", n)
	case <-time.After(100 * time.Millisecond):
	}
	slow.settle(false)
	// Redis has forgotten the first, of which the daemon tells too.
	if n := <-admitted; n != 4 {
		t.Errorf("%d more admitted, want 4", n)
	}
}
