package ratelimit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
	"sallyport/pkg/policy"
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
	connect.Timeout = time.Second
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
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("a reload waits %s", took)
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
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && left(t, r) != 0; time.Sleep(5 * time.Millisecond) {
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

// TestCluster: the counters of a rule lie in one slot of a cluster.
func TestCluster(t *testing.T) {
	sameDay(t)
	r := startRedis(t, "--cluster-enabled", "yes")
	c, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{r.address}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(context.Background(), c.B().Arbitrary("CLUSTER", "ADDSLOTSRANGE", "0", "16383").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := c.Do(context.Background(), c.B().Set().Key("x").Value("1").Build()).Error(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	limits := []config.RateLimit{inRedis(0, 0, 0, 20), {Day: 1000, By: config.CounterKey{By: config.ByHost}, Policy: config.RedisCounters}}
	d := startDaemon(t, r.connect, limits)
	d.waitFor(t, true)
	d.Stage = New("a } rule {", limits, d.Counters)
	if n := d.ask(t, 50); n != 20 || !d.Counters.shared.Connected() {
		t.Errorf("%d admitted", n)
	}
}

// TestTLS: with a certificate that ca_file verifies, a user, a password and
// another db; with wrong ones Redis is away.
func TestTLS(t *testing.T) {
	sameDay(t)
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	private, kerr := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err, kerr); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	certFile := write("cert", ca)
	keyFile := write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	r := startRedis(t, "--tls-port", port, "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", certFile, "--tls-auth-clients", "no",
		"--user", "limiter", "on", ">pass-word", "~test:*", "-@all", "+eval", "+evalsha", "+hmget", "+hset", "+hincrby", "+ttl", "+expire", "+time", "+select", "+hello", "+cluster|slots", "+client")
	connect := r.connect
	connect.Address = net.JoinHostPort("127.0.0.1", port)
	connect.TLS, connect.CAFile, connect.CA, connect.Username, connect.Password, connect.DB = true, certFile, string(ca), "limiter", "pass-word", 3
	d := startDaemon(t, connect, []config.RateLimit{inRedis(0, 0, 0, 5)})
	d.waitFor(t, true)
	if n := d.ask(t, 9); n != 5 {
		t.Errorf("%d admitted", n)
	}
	for name, change := range map[string]func(*Server){
		"password": func(s *Server) { s.Password = "wrong" },
		"roots":    func(s *Server) { s.CA = "" },
	} {
		wrong := connect
		change(&wrong)
		if err := d.Counters.shared.Use(wrong); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d.Counters.shared.Connected() {
			t.Errorf("connected with the wrong %s", name)
		}
		if text := d.Counters.shared.Trouble(); !strings.Contains(text, " is away: ") {
			t.Errorf("wrong %s: the trouble is %q", name, text)
		}
	}
	wrong := connect
	wrong.CA = "nothing"
	if err := d.Counters.shared.Use(wrong); err == nil {
		t.Error("a ca_file without a certificate was accepted")
	}
	if err := d.Counters.shared.Use(connect); err != nil || !d.Counters.shared.Connected() || d.Counters.shared.Trouble() != "" {
		t.Errorf("not connected again: %v", err)
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
