package balance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/pkg/config"
)

// site is the targets as checks find them.
type site struct {
	mu     sync.Mutex
	status map[string]int // 0: refused, -1: silent
	asked  map[string]int
	hosts  []string
	secure bool
	checks *Set
	most   int // of the checks that ran at once
}

func newSite(hosts ...string) *site {
	s := &site{status: map[string]int{}, asked: map[string]int{}}
	for _, h := range hosts {
		s.status[h] = 200
	}
	return s
}

func (s *site) set(host string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status[host] = status
}

func (s *site) count(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[host]
}

// saw gives what the checks have looked like.
func (s *site) saw() (secure bool, asked []string, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secure, slices.Clone(s.hosts), s.most
}

func (s *site) dial(ctx context.Context, _ string, t *Target, secure bool) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[t.Host]++
	s.secure = secure
	status := s.status[t.Host]
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	n, _ := s.checks.Checks()
	s.most = max(s.most, n)
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		req, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			return
		}
		s.mu.Lock()
		s.hosts = append(s.hosts, req.Host+" "+req.URL.String()+" "+req.UserAgent())
		s.mu.Unlock()
		if status < 0 {
			server.Read(make([]byte, 1))
			return
		}
		fmt.Fprintf(server, "HTTP/1.1 %d OK\r\nContent-Length: 0\r\n\r\n", status)
	}()
	return client, nil
}

// checked is an upstream with Kong's usual active checks.
func checked(weights ...int) *config.Upstream {
	u := upstreamOf(config.RoundRobin, weights...)
	a := &u.Active
	a.HTTPPath, a.Timeout, a.Statuses = "/health?deep=1", time.Second, []int{200, 302}
	a.Healthy.Interval, a.Healthy.Successes = 10*time.Second, 2
	a.Unhealthy.Interval, a.Unhealthy.HTTPFailures, a.Unhealthy.TCPFailures, a.Unhealthy.Timeouts = 5*time.Second, 3, 2, 2
	return u
}

// running starts a set with that upstream in a bubble.
func running(t *testing.T, s *site, u *config.Upstream) (*Set, *changes) {
	var seen changes
	set := New(Options{Dial: s.dial, Changed: seen.add})
	set.Apply(&config.Config{Upstreams: []config.Upstream{*u}})
	s.checks = set
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { set.Run(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	return set, &seen
}

type changes struct {
	mu  sync.Mutex
	all []string
}

func (c *changes) add(x Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fmt.Sprintf("%s %v %s", x.Target, x.Healthy, x.Why))
}

func (c *changes) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

func healthy(s *Set) string {
	out := ""
	for _, h := range s.Health() {
		if h.Healthy {
			out += h.Target[:1]
		}
	}
	return out
}

// TestActiveChecks: a target is taken out after as many failures of a kind as
// configured, and comes back after as many successes, each at its own pace.
func TestActiveChecks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		after  time.Duration // that it is out, since the first check that fails
		why    string
	}{
		{"http", 500, 20 * time.Second, "active check: it answered 500 (3 since the last success)"},
		{"tcp", 0, 10 * time.Second, "active check: connection refused (2 since the last success)"},
		{"timeout", -1, 11 * time.Second, "active check: it did not answer in time (2 since the last success)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite("a", "b")
				set, seen := running(t, s, checked(1, 1))
				time.Sleep(time.Second)
				s.set("b", tt.status)
				time.Sleep(9*time.Second + tt.after - 100*time.Millisecond)
				if got := healthy(set); got != "ab" {
					t.Fatalf("too early: %s", got)
				}
				time.Sleep(200 * time.Millisecond)
				if got := healthy(set); got != "a" {
					t.Fatalf("still in: %s", got)
				}
				u := set.Upstream("u")
				for range 10 {
					if take(t, u, 0).Host != "a" {
						t.Fatal("an unhealthy target was chosen")
					}
				}
				n := s.count("b")
				time.Sleep(20 * time.Second)
				if got := s.count("b") - n; got < 3 || got > 4 {
					t.Errorf("%d checks in 20 s of an unhealthy target", got)
				}
				s.set("b", 302)
				time.Sleep(11 * time.Second)
				if got := healthy(set); got != "ab" {
					t.Errorf("not back: %s", got)
				}
				if want := []string{"b:80 false " + tt.why, "b:80 true active check: it answered 302"}; !slices.Equal(seen.list(), want) {
					t.Errorf("%q", seen.list())
				}
				if _, asked, _ := s.saw(); asked[0][1:] != " /health?deep=1 sallyport-healthcheck" {
					t.Errorf("asked for %q", asked[0])
				}
			})
		})
	}
}

// TestCountersOfChecks: a success forgets failures; a failure forgets successes;
// 0 is off.
func TestCountersOfChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite("a")
		c := checked(1)
		c.Active.Unhealthy.Timeouts = 0
		set, _ := running(t, s, c)
		time.Sleep(time.Second)
		for range 5 {
			s.set("a", 500)
			time.Sleep(20 * time.Second)
			s.set("a", 200)
			time.Sleep(10 * time.Second)
		}
		if healthy(set) != "a" {
			t.Error("two failures between successes took it out")
		}
		s.set("a", -1)
		time.Sleep(time.Minute)
		if healthy(set) != "a" {
			t.Error("timeouts count although they are off")
		}
	})
}

// TestChecksThatAreOff: an interval of 0 asks nothing.
func TestChecksThatAreOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite("a")
		c := checked(1)
		c.Active.Healthy.Interval = 0
		running(t, s, c)
		time.Sleep(time.Hour)
		if s.count("a") != 0 {
			t.Errorf("%d checks", s.count("a"))
		}
	})
}

// TestCheckTypes: tcp asks nothing; https where the port says so or the type
// does.
func TestCheckTypes(t *testing.T) {
	for _, tt := range []struct {
		kind   config.CheckType
		port   uint16
		secure bool
		asked  string
	}{
		{"", 443, true, "a /"}, {"", 8443, false, "a:8443 /"}, {config.CheckHTTPS, 8443, true, "a:8443 /"},
		{config.CheckHTTP, 443, false, "a:443 /"}, {config.CheckTCP, 443, false, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite("a")
			c := checked(1)
			c.Targets[0].Port, c.Active.Type, c.Active.HTTPPath = tt.port, tt.kind, ""
			set, _ := running(t, s, c)
			time.Sleep(time.Minute)
			secure, asked, _ := s.saw()
			if s.count("a") == 0 || secure != tt.secure || healthy(set) != "a" {
				t.Errorf("%+v: %d checks, TLS %v", tt, s.count("a"), secure)
			}
			if tt.asked == "" && len(asked) > 0 || tt.asked != "" && !strings.HasPrefix(asked[0], tt.asked+" ") {
				t.Errorf("%+v: asked for %q", tt, asked)
			}
		})
	}
}

// TestChecksAreBounded: many targets that do not answer are not asked all at
// once, and all are asked.
func TestChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		weights := make([]int, 100)
		for i := range weights {
			weights[i] = 1
			s.status[name(i)] = -1
		}
		set, _ := running(t, s, checked(weights...))
		time.Sleep(30 * time.Second)
		if _, _, most := s.saw(); most != maxChecks {
			t.Errorf("%d checks at once", most)
		}
		if got := healthy(set); got != "" {
			t.Errorf("healthy: %s", got)
		}
	})
}

// TestPassiveChecks: failures of one kind since the last success take a target
// out; after recover_after one request tries it.
func TestPassiveChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := upstreamOf(config.RoundRobin, 1, 1)
		p := &c.Passive
		p.Statuses, p.RecoverAfter = []int{500, 503}, 30*time.Second
		p.Unhealthy.HTTPFailures, p.Unhealthy.TCPFailures, p.Unhealthy.Timeouts = 3, 2, 1
		var seen changes
		set := New(Options{Changed: seen.add})
		set.Apply(&config.Config{Upstreams: []config.Upstream{*c}})
		u := set.Upstream("u")
		b := Lease{Target: u.targets[1]}
		b.Answered(500)
		b.Answered(503)
		b.Answered(502) // not listed: a success
		b.Answered(500)
		b.Answered(500)
		b.Failed(TCPFailure, "refused")
		b.Failed(Nothing, "")
		if healthy(set) != "ab" {
			t.Fatal("too early")
		}
		b.Answered(503)
		if healthy(set) != "a" {
			t.Fatal("still in")
		}
		time.Sleep(30*time.Second - time.Millisecond)
		for range 4 {
			if take(t, u, 0).Host != "a" {
				t.Fatal("tried too early")
			}
		}
		time.Sleep(time.Millisecond)
		if l, _ := u.Ask(0, nil, time.Now()); l.Target.Host != "a" {
			t.Fatal("tried without a request")
		}
		// One request tries it, and the next one only after as long again.
		trial, _ := u.Pick(0, nil, time.Now())
		if trial.Target.Host != "b" || !trial.trial {
			t.Fatalf("%+v", trial)
		}
		for range 4 {
			if take(t, u, 0).Host != "a" {
				t.Fatal("two trials at a time")
			}
		}
		trial.Failed(TCPFailure, "refused")
		time.Sleep(30 * time.Second)
		trial, _ = u.Pick(0, nil, time.Now())
		if trial.Target.Host != "b" {
			t.Fatal("no second trial")
		}
		trial.Answered(200)
		if healthy(set) != "ab" {
			t.Error("not back")
		}
		if len(seen.list()) != 2 {
			t.Errorf("%q", seen.list())
		}
		down(u, 0)
		b.Failed(Timeout, "late")
		if _, ok := u.Pick(0, nil, time.Now()); ok {
			t.Error("a target where none is healthy")
		}
	})
}

// TestActiveChecksDecide: where they can bring a target back, no request tries
// it.
func TestActiveChecksDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite("a", "b")
		s.set("b", 500)
		c := checked(1, 1)
		c.Passive.RecoverAfter = time.Second
		set, _ := running(t, s, c)
		time.Sleep(time.Minute)
		u := set.Upstream("u")
		for range 10 {
			if take(t, u, 0).Host == "b" {
				t.Fatal("a request tried it")
			}
		}
	})
}

// TestSlowStart: a target that has come back gets its share in ten steps.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := upstreamOf(config.RoundRobin, 100, 100)
		c.SlowStart = 100 * time.Second
		_, u := apply(t, c)
		down(u, 1)
		u.targets[1].state.mu.Lock()
		u.targets[1].state.upLocked(time.Now())
		u.targets[1].state.mu.Unlock()
		for step := 1; step <= 10; step++ {
			n := 0
			for range 1100 {
				if take(t, u, 0).Host == "b" {
					n++
				}
			}
			want := 1100 * step / (10 + step)
			if n < want-5 || n > want+5 {
				t.Errorf("step %d: %d, want about %d", step, n, want)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// TestReloadKeepsHealth: what is known of a target stays as long as it is one of
// the upstream.
func TestReloadKeepsHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		c := upstreamOf(config.RoundRobin, 1, 1)
		c.Passive.RecoverAfter = time.Minute
		conf := &config.Config{Upstreams: []config.Upstream{*c}}
		s.Apply(conf)
		down(s.Upstream("u"), 1)
		c = upstreamOf(config.LeastConn, 5, 1, 1)
		c.Passive.RecoverAfter = time.Minute
		s.Apply(&config.Config{Upstreams: []config.Upstream{*c}})
		if got := healthy(s); got != "ac" {
			t.Errorf("%s", got)
		}
		time.Sleep(time.Minute)
		if l, _ := s.Upstream("u").Pick(0, nil, time.Now()); l.Target.Host != "b" {
			t.Error("no trial after a reload")
		}
		// What nothing could bring back is healthy.
		c.Passive.RecoverAfter = 0
		s.Apply(&config.Config{Upstreams: []config.Upstream{*c}})
		if got := healthy(s); got != "abc" {
			t.Errorf("%s", got)
		}
		s.Apply(&config.Config{})
		if s.Upstream("u") != nil || len(s.groups) != 0 {
			t.Error("an upstream that is no more is remembered")
		}
	})
}

// TestHealthRaces lets everything happen at once.
func TestHealthRaces(t *testing.T) {
	c := upstreamOf(config.LeastConn, 1, 2, 3)
	c.Passive.Statuses, c.Passive.Unhealthy.HTTPFailures, c.Passive.RecoverAfter = []int{500}, 1, time.Microsecond
	c.SlowStart = time.Millisecond
	s := New(Options{})
	conf := &config.Config{Upstreams: []config.Upstream{*c}}
	s.Apply(conf)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 2000 {
				l, ok := s.Upstream("u").Pick(0, nil, time.Now())
				if !ok {
					continue
				}
				if (n+i)%7 == 0 {
					l.Answered(500)
				} else {
					l.Answered(200)
				}
				l.End()
				if n%500 == 0 {
					s.Apply(conf)
				}
			}
		})
	}
	wg.Wait()
	for _, target := range s.Upstream("u").targets {
		if n := target.state.open.Load(); n != 0 {
			t.Errorf("%s has %d open", target, n)
		}
	}
}
