package ratelimit

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
	"go.uber.org/zap"

	"sallyport/pkg/config"
)

// TestShared: three daemons admit exactly the limit together.
func TestShared(t *testing.T) {
	sameDay(t)
	r := startRedis(t)
	for _, limits := range [][]config.RateLimit{
		{inRedis(0, 0, 0, 200)},
		{inRedis(0, 0, 500, 200), {Day: 1000, By: config.CounterKey{By: config.ByHost}, Policy: config.RedisCounters}, local(0, 0, 0, 150)},
	} {
		connect := r.connect
		connect.Prefix = fmt.Sprint("test", len(limits), ":")
		var n atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			d := startDaemon(t, connect, limits)
			wg.Go(func() { n.Add(int64(d.ask(t, 200))) })
		}
		wg.Wait()
		if n.Load() != 200 {
			t.Errorf("%d admitted, want 200", n.Load())
		}
	}
}

// TestSharedWindows: exactly the limit in each second, by the clock of Redis.
func TestSharedWindows(t *testing.T) {
	r := startRedis(t)
	var mu sync.Mutex
	admitted := map[int64]int{}
	asked := map[int64]int{}
	var wg sync.WaitGroup
	stop := time.Now().Add(3500 * time.Millisecond)
	for range 3 {
		d := startDaemon(t, r.connect, []config.RateLimit{inRedis(20, 0, 0, 0)})
		for range 8 {
			wg.Go(func() {
				for time.Now().Before(stop) {
					x := newExchange("w", time.Time{})
					refusal := d.Stage.Request(context.Background(), x)
					at := x.Kept(d.Stage).(*verdict).takes[0].counts[second].start
					mu.Lock()
					asked[at]++
					if refusal == nil {
						admitted[at]++
					}
					mu.Unlock()
					d.End(x)
				}
			})
		}
	}
	wg.Wait()
	whole := 0
	for at, n := range admitted {
		if n > 20 || n < 20 && asked[at] > n {
			t.Errorf("second %d: %d of %d admitted, want 20", at, n, asked[at])
		}
		if n == 20 {
			whole++
		}
	}
	if whole < 2 {
		t.Errorf("only %d seconds were used up: %v", whole, asked)
	}
}

// TestSharedWithdraw: what a later stage refused or answered does not count.
func TestSharedWithdraw(t *testing.T) {
	sameDay(t)
	r := startRedis(t)
	limits := []config.RateLimit{inRedis(0, 0, 100, 10), {Day: 1000, By: config.CounterKey{By: config.ByRule}, Policy: config.RedisCounters, FaultTolerant: true}}
	d := startDaemon(t, r.connect, limits)
	for range 5 {
		for range 10 {
			x := newExchange("w", time.Time{})
			if refusal := d.Stage.Request(context.Background(), x); refusal != nil {
				t.Fatal(refusal)
			}
			d.Withdraw(x)
			d.End(x)
		}
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && left(t, r) != 0; time.Sleep(5 * time.Millisecond) {
		}
	}
	if n := d.ask(t, 20); n != 10 {
		t.Errorf("%d admitted, want 10", n)
	}
	// Given back while Redis is away: in the daemon, and not twice.
	r.stop()
	s := New("other", limits, d.Counters)
	var counted int
	for i := range 30 {
		x := newExchange("w", time.Time{})
		if s.Request(context.Background(), x) == nil {
			if i%2 == 0 {
				s.Withdraw(x)
			} else {
				counted++
			}
		}
	}
	if counted != 10 {
		t.Errorf("without Redis %d, want 10", counted)
	}
	r.start()
	d.waitFor(t, true)
	d.Stage = s
	if n := d.ask(t, 20); n != 0 {
		t.Errorf("%d more admitted by a Redis that is back", n)
	}
}

// left gives what Redis counts of the workload in the day.
func left(t *testing.T, r *redisServer) int64 {
	t.Helper()
	c, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{r.address}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := c.Do(context.Background(), c.B().Hget().Key("test:{r}:workload:w").Field("n4").Build()).AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSharedKeys: keys have the prefix, end by themselves, and hold no value of
// a header field.
func TestSharedKeys(t *testing.T) {
	r := startRedis(t)
	d := startDaemon(t, r.connect, []config.RateLimit{{Minute: 10, By: config.CounterKey{By: config.ByHeader, Header: "X-Key"}, Policy: config.RedisCounters}})
	x := newExchange("w", time.Time{})
	x.Request.Header.Add("X-Key", "top-secret")
	if refusal := d.Stage.Request(context.Background(), x); refusal != nil {
		t.Fatal(refusal)
	}
	c := *d.Counters.shared.link.Load().client.Load()
	keys, err := c.Do(context.Background(), c.B().Keys().Pattern("*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if ttl, err := c.Do(context.Background(), c.B().Ttl().Key(key).Build()).AsInt64(); err != nil || ttl < 0 || ttl > 61 {
			t.Errorf("%s ends in %d s: %v", key, ttl, err)
		}
		if len(key) < 5 || key[:5] != "test:" {
			t.Errorf("key %q", key)
		}
	}
	if len(keys) == 0 || len(keys) > 2 {
		t.Errorf("keys %q", keys)
	}
}

func BenchmarkShared(b *testing.B) {
	address := os.Getenv("TEST_REDIS")
	if address == "" {
		b.Skip("TEST_REDIS is not set")
	}
	shared := NewShared(zap.NewNop(), func(string) {})
	if err := shared.Use(Server{Redis: config.Redis{Address: address, Prefix: "bench:", Timeout: time.Second}}); err != nil {
		b.Fatal(err)
	}
	defer shared.closeAll()
	s := New("r", []config.RateLimit{inRedis(0, 1<<40, 1<<40, 0)}, NewCounters(shared))
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			x := newExchange("w", time.Time{})
			if s.Request(context.Background(), x) != nil {
				b.Error("refused")
			}
			s.End(x)
		}
	})
}
