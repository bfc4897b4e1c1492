package ratelimit

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/config"
	"sallyport/pkg/policy"
	"sallyport/test/port"
)

// A redisServer is a real one, without a memory of its own.
type redisServer struct {
	t       *testing.T
	argv    []string
	cmd     *exec.Cmd
	address string
	// connect is how a client of it connects.
	connect Server
}

func startRedis(t *testing.T, options ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("no redis-server; scripts/setup test installs it")
	}
	number := fmt.Sprint(port.Free(t))
	address := net.JoinHostPort("127.0.0.1", number)
	r := &redisServer{t: t, address: address}
	r.argv = append([]string{"redis-server", "--port", number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir(), "--logfile", "log"}, options...)
	r.connect = Server{Redis: config.Redis{Address: address, Prefix: "test:", Timeout: 20 * time.Second}}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command(r.argv[0], r.argv[1:]...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", r.address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("redis-server does not answer: %v", err)
		}
	}
}

// stop kills it: what it counted is lost.
func (r *redisServer) stop() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		r.cmd.Wait()
		r.cmd = nil
	}
}

// A daemon is what of one matters here.
type daemon struct {
	*Counters
	*Stage
}

func startDaemon(t *testing.T, server Server, limits []config.RateLimit) *daemon {
	t.Helper()
	shared := NewShared(zap.NewNop(), func(s string) { t.Log(s) })
	if err := shared.Use(server); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- shared.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	counters := NewCounters(shared)
	return &daemon{Counters: counters, Stage: New("r", limits, counters)}
}

func (d *daemon) waitFor(t *testing.T, connected bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); d.Counters.shared.Connected() != connected; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("connected is not %v", connected)
		}
	}
}

// ask asks n times, from many at once, and gives how many were admitted.
func (d *daemon) ask(t *testing.T, n int) int {
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := g; i < n; i += 16 {
				x := newExchange("w", time.Time{})
				switch r := d.Stage.Request(context.Background(), x); {
				case r == nil:
					admitted.Add(1)
				case r.Reason != policy.RateLimited:
					t.Errorf("refused: %v", r)
				}
				d.End(x)
			}
		})
	}
	wg.Wait()
	return int(admitted.Load())
}

func inRedis(second, minute, hour, day int64) config.RateLimit {
	l := local(second, minute, hour, day)
	l.Policy = config.RedisCounters
	return l
}

// sameDay waits if the day ends soon: a test that counts in it would count in
// two.
func sameDay(t *testing.T) {
	t.Helper()
	now := time.Now()
	if left := time.Until(now.Truncate(24 * time.Hour).Add(24 * time.Hour)); left < time.Minute {
		time.Sleep(left)
	}
}
