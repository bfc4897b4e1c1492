package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/upstream"
)

// TestRetryElsewhere: what fails at one target is tried at another, and each try
// counts for the target's health.
func TestRetryElsewhere(t *testing.T) {
	s := newStreet(t)
	busy := s.target("b.test", "", false, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) })
	good := s.target("c.test", "", false, nil)
	s.know("a.test", netip.MustParseAddr("127.0.0.1"))
	s.apply(targets(map[string]uint16{"a.test": s.free(), "b.test": busy.addr.Port(), "c.test": good.addr.Port()})+
		", healthchecks: {passive: {statuses: [503], unhealthy: {http_failures: 3, tcp_failures: 3}, recover_after: 1h}}",
		", retry: {attempts: 3, on: [connect, '503'], backoff: 1ms}")
	c := s.clear()
	for i := range 12 {
		if r := get(t, c, "search.test", "/"); r.err != nil || !strings.HasPrefix(r.text, "c.test ") {
			t.Fatalf("%d: %v %q", i, r.err, r.text)
		}
	}
	if n := busy.reqs.Load(); n != 3 {
		t.Errorf("%d requests to the busy one, which is unhealthy after 3", n)
	}
	e := s.event(audit.Exchange, 1)
	if e.Upstream.Attempts != 3 || !strings.HasPrefix(e.Upstream.Target, "c.test:") || e.HTTP.Status != 200 {
		t.Errorf("%+v", e.Upstream)
	}
	if e = s.event(audit.Exchange, 12); e.Upstream.Attempts != 1 {
		t.Errorf("%+v", e.Upstream)
	}
}

// TestRetryHere: without an upstream the host itself is asked again.
func TestRetryHere(t *testing.T) {
	g := newGate(t, `
rules:
  - { name: api, match: { hosts: [api.example.com] }, private: [127.0.0.0/8], action: allow, retry: {attempts: 3, on: [connect, "502", "503"], backoff: 1ms} }
`, nil)
	var fails atomic.Int64
	var bodies []string
	var mu sync.Mutex
	at := g.web("api.example.com", "127.0.0.1:0", nil, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		bodies = append(bodies, r.Method+" "+string(body))
		mu.Unlock()
		if fails.Add(-1) >= 0 {
			if r.URL.Path == "/break" {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "done")
	})
	c := g.dial(1, at.dst())
	large := strings.Repeat("x", 200_000)
	for _, tt := range []struct {
		name, request string
		fails         int64
		status        int
		tries         int
	}{
		{"GET", "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 2, 200, 3},
		{"at its end", "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 3, 503, 3},
		{"short PUT", "PUT / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\nbody", 2, 200, 3},
		{"short POST", "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\nbody", 2, 503, 1},
		{"PUT in parts", "PUT / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n", 2, 200, 3},
		{"large PUT", "PUT / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 200000\r\n\r\n" + large, 2, 503, 1},
		{"broken GET", "GET /break HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 2, 200, 3},
		{"broken POST", "POST /break HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\nbody", 1, 502, 1},
	} {
		mu.Lock()
		bodies = nil
		mu.Unlock()
		// A new connection, so that the one resend of those that were kept does not
		// count.
		g.pool.SetTrust(upstream.Trust{Roots: g.internet.pool()})
		fails.Store(tt.fails)
		if tt.name == "PUT in parts" {
			// What comes after the head was taken up.
			time.AfterFunc(20*time.Millisecond, func() {
				io.WriteString(c, "3\r\nabc\r\n")
				time.Sleep(20 * time.Millisecond)
				io.WriteString(c, "3\r\ndef\r\n0\r\n\r\n")
			})
		}
		r := ask(t, c, tt.request)
		mu.Lock()
		if r.err != nil || r.StatusCode != tt.status || len(bodies) != tt.tries {
			t.Errorf("%s: %v %+v after %d tries, want %d after %d", tt.name, r.err, r.Response, len(bodies), tt.status, tt.tries)
		}
		for _, b := range bodies {
			if b != bodies[0] {
				t.Errorf("%s: sent %.40q, then %.40q", tt.name, bodies[0], b)
			}
		}
		mu.Unlock()
		for end := time.Now().Add(30 * time.Second); g.p.keptBodies.Load() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %d bytes of its body are still kept", tt.name, g.p.keptBodies.Load())
			}
		}
	}
}

// TestRetryOnConnect: a POST goes elsewhere where it could not be sent at all.
func TestRetryOnConnect(t *testing.T) {
	s := newStreet(t)
	good := s.target("b.test", "", false, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	s.know("a.test", netip.MustParseAddr("127.0.0.1"))
	s.apply(targets(map[string]uint16{"a.test": s.free(), "b.test": good.addr.Port()}), ", retry: {attempts: 2, on: [connect], backoff: 1ms}")
	c := s.clear()
	large := strings.Repeat("y", 100_000)
	for range 4 {
		if r := ask(t, c, "POST / HTTP/1.1\r\nHost: search.test\r\nContent-Length: 100000\r\n\r\n"+large); r.err != nil || r.text != large {
			t.Fatalf("%v %.80q", r.err, r.text)
		}
	}
}

// TestRetryBudget: an outage is not multiplied.
func TestRetryBudget(t *testing.T) {
	s := newStreet(t)
	bad := s.target("a.test", "", false, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	s.apply(targets(map[string]uint16{"a.test": bad.addr.Port()}), ", retry: {attempts: 5, on: ['502'], backoff: 0s}")
	c := s.clear()
	const n = 200
	for range n {
		if r := get(t, c, "search.test", "/"); r.err != nil || r.StatusCode != 502 {
			t.Fatalf("%v %+v", r.err, r.Response)
		}
	}
	if got := bad.reqs.Load(); got > n*6/5+10 || got < n+10 {
		t.Errorf("%d requests for %d", got, n)
	}
}

// TestRetryOfLeaving: who is gone is not waited for.
func TestRetryOfLeaving(t *testing.T) {
	s := newStreet(t)
	bad := s.target("a.test", "", false, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	s.apply(targets(map[string]uint16{"a.test": bad.addr.Port()}), ", retry: {attempts: 20, on: ['502'], backoff: 1m}")
	c := s.clear()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: search.test\r\n\r\n")
	until(t, "the first try", func() bool { return bad.reqs.Load() > 0 })
	time.Sleep(20 * time.Millisecond)
	s.p.each(func(c *conn) { c.left.Store(true); c.interrupt() })
	if e := s.event(audit.Exchange, 1); e.Message != textGone || bad.reqs.Load() == 20 {
		t.Errorf("%+v", e)
	}
}

// TestRetryOfCancelledStream: a stream that its client cancels is not tried
// again, and the others of its connection go on.
func TestRetryOfCancelledStream(t *testing.T) {
	s := newStreet(t)
	a := s.speaking("a.test", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			w.WriteHeader(503)
		}
	}, "h2")
	// The pauses are random: some may be short, not all.
	s.apply(targets(map[string]uint16{"a.test": a.addr.Port()}), ", retry: {attempts: 20, on: ['503'], backoff: 1m}")
	c := s.client(&site{addr: netip.MustParseAddrPort(standin + ":443")}, "search.test")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for a.reqs.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://search.test/busy", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := fetch(c, req); r.err == nil {
		t.Fatalf("%+v", r.Response)
	}
	if e := s.event(audit.Exchange, 1); e.Message != "the workload cancelled the request" {
		t.Errorf("%+v", e)
	}
	n := a.reqs.Load()
	if r := fetch(c, request(t, "GET", "https://search.test/", nil)); r.err != nil || r.StatusCode != 200 || a.reqs.Load() != n+1 {
		t.Errorf("%v %+v, %d requests", r.err, r.Response, a.reqs.Load())
	}
}
