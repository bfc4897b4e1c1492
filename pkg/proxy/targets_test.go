package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// A street is a gate with servers that are the targets of an upstream.
type street struct {
	*gate
	set *balance.Set
}

// standin is an address that stands for the host of the tests' rule.
const standin = "198.18.0.7"

func newStreet(t testing.TB) *street {
	s := &street{gate: newGate(t, "", nil), set: balance.New(balance.Options{})}
	s.book.names[netip.MustParseAddr(standin)] = "search.test"
	return s
}

// target starts a server of a name; cert is for that name if that is "".
func (s *street) target(name, cert string, secure bool, h http.HandlerFunc) *site {
	s.t.Helper()
	ln, at := s.listen("127.0.0.1:0")
	if secure {
		if cert == "" {
			cert = name
		}
		leaf, err := s.internet.leaf(cert, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}})
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at.reqs.Add(1)
		if h != nil {
			h(w, r)
			return
		}
		fmt.Fprintf(w, "%s %s %s %s", name, r.Proto, r.Host, r.URL.RequestURI())
	})}
	go srv.Serve(ln)
	s.t.Cleanup(func() { srv.Close() })
	s.book.mu.Lock()
	s.book.addrs[name] = []netip.Addr{at.addr.Addr()}
	s.book.mu.Unlock()
	return at
}

// free gives a port on which nobody listens.
func (s *street) free() uint16 {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// apply makes a configuration hold.
func (s *street) apply(upstream, rule string) {
	s.t.Helper()
	yaml := "version: 1\nupstreams:\n  search: { " + upstream + " }\nrules:\n  - { name: search, match: { hosts: [search.test] }, private: [127.0.0.0/8], action: allow, upstream: search" + rule + " }\n"
	c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte(yaml)}})
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.p.Apply(&Settings{Policy: p, Timeouts: c.Timeouts, Balance: s.set.Apply(c)})
}

// targets writes those of an upstream.
func targets(ports map[string]uint16) string {
	var all []string
	for name, port := range ports {
		all = append(all, fmt.Sprintf("{target: %q}", fmt.Sprintf("%s:%d", name, port)))
	}
	slices.Sort(all)
	return "targets: [" + strings.Join(all, ", ") + "]"
}

func (s *street) clear() net.Conn  { return s.dial(1, standin+":80") }
func (s *street) secret() net.Conn { return s.mustTLS(1, standin+":443", "search.test") }

// TestTargets: requests go to the targets in turn, under their own names, and
// the host of the rule is never resolved.
func TestTargets(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := newStreet(t)
		a, b := s.target("a.test", "", secure, nil), s.target("b.test", "", secure, nil)
		dial := s.clear
		if secure {
			dial = s.secret
		}
		for _, preserve := range []bool{false, true} {
			s.apply(targets(map[string]uint16{"a.test": a.addr.Port(), "b.test": b.addr.Port()})+fmt.Sprintf(", preserve_host: %v", preserve), "")
			c := dial()
			for i := range 6 {
				name, at := "a.test", a
				if i%2 == 1 {
					name, at = "b.test", b
				}
				host := fmt.Sprintf("%s:%d", name, at.addr.Port())
				if preserve {
					host = "search.test"
				}
				want := fmt.Sprintf("%s HTTP/1.1 %s /x?y", name, host)
				if r := get(t, c, "search.test", "/x?y"); r.err != nil || r.text != want {
					t.Errorf("%d: %q %v, want %q", i, r.text, r.err, want)
				}
			}
		}
		if s.book.wasAsked("search.test") {
			t.Error("the host of the rule was resolved")
		}
		if a.conns.Load() != 1 || b.conns.Load() != 1 {
			t.Errorf("%d and %d connections, which the pool keeps", a.conns.Load(), b.conns.Load())
		}
		e := s.event(audit.Exchange, 2)
		if want := fmt.Sprintf("b.test:%d", b.addr.Port()); e.Upstream.Target != want || e.Upstream.IP != b.addr.Addr() || e.Upstream.Attempts != 1 || e.Dst.Host != "search.test" || e.HTTP.Host != "search.test" {
			t.Errorf("%+v", e)
		}
	}
}

// TestTargetsAreVerified: a target with a certificate of another name gets no
// request; another one does if the rule says so.
func TestTargetsAreVerified(t *testing.T) {
	s := newStreet(t)
	bad, good := s.target("a.test", "search.test", true, nil), s.target("b.test", "", true, nil)
	up := targets(map[string]uint16{"a.test": bad.addr.Port(), "b.test": good.addr.Port()})
	s.apply(up, "")
	c := s.secret()
	get(t, c, "search.test", "/").mustRefuse(t, 502, "upstream_tls")
	if r := get(t, c, "search.test", "/"); r.err != nil || r.StatusCode != 200 {
		t.Errorf("%v %q", r.err, r.text)
	}
	s.apply(up, ", retry: {attempts: 2, on: [connect], backoff: 0s}")
	c = s.secret()
	for range 4 {
		if r := get(t, c, "search.test", "/"); r.err != nil || r.StatusCode != 200 {
			t.Errorf("%v %q", r.err, r.text)
		}
	}
	if bad.reqs.Load() != 0 {
		t.Error("a request went to a target that did not prove its name")
	}
	if e := s.event(audit.Exchange, 5); e.Upstream.Attempts < 1 || e.Verdict != "allow" {
		t.Errorf("%+v", e)
	}
}

// TestTargetsOfAddressClasses: what a target resolves to is judged by the rule.
func TestTargetsOfAddressClasses(t *testing.T) {
	s := newStreet(t)
	a := s.target("a.test", "", false, nil)
	up := targets(map[string]uint16{"a.test": a.addr.Port()})
	s.apply(up, ", mode: enforce")
	s.book.mu.Lock()
	s.book.addrs["a.test"] = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("10.0.0.1")}
	s.book.mu.Unlock()
	get(t, s.clear(), "search.test", "/").mustRefuse(t, 403, "address_denied")
	s = newStreet(t)
	a = s.target("a.test", "", false, nil)
	s.p.Own = own{listener: func(at netip.AddrPort) bool { return at == a.addr }}
	s.apply(targets(map[string]uint16{"a.test": a.addr.Port()}), ", mode: observe")
	get(t, s.clear(), "search.test", "/").mustRefuse(t, 403, "address_denied")
	if a.conns.Load() != 0 {
		t.Error("sallyport itself was contacted")
	}
}

// TestNoHealthyTarget: without a healthy target nothing is contacted.
func TestNoHealthyTarget(t *testing.T) {
	s := newStreet(t)
	up := targets(map[string]uint16{"a.test": s.free()}) + ", healthchecks: {passive: {unhealthy: {tcp_failures: 2}, recover_after: 1h}}"
	s.know("a.test", netip.MustParseAddr("127.0.0.1"))
	s.apply(up, "")
	c := s.clear()
	for range 2 {
		get(t, c, "search.test", "/").mustRefuse(t, 502, "upstream_unreachable")
	}
	r := get(t, c, "search.test", "/")
	r.mustRefuse(t, 503, "no_healthy_target")
	if !strings.Contains(r.text, "connection refused (2 since the last success)") {
		t.Error(r.text)
	}
	s.apply(up, "") // a reload keeps it
	get(t, c, "search.test", "/").mustRefuse(t, 503, "no_healthy_target")
}

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
			time.AfterFunc(20*time.Millisecond, func() { io.WriteString(c, "3\r\nabc\r\n") })
			time.AfterFunc(40*time.Millisecond, func() { io.WriteString(c, "3\r\ndef\r\n0\r\n\r\n") })
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

// TestTargetsSpeakHTTP2: streams are spread too; a client is offered what a
// target speaks, and that target gets the first request.
func TestTargetsSpeakHTTP2(t *testing.T) {
	s := newStreet(t)
	var mu sync.Mutex
	seen := map[string]int{}
	note := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen[name+" "+r.Proto+" "+r.Host]++
			mu.Unlock()
			if r.URL.Path == "/busy" && name == "a" {
				w.WriteHeader(503)
				return
			}
			io.Copy(w, r.Body)
		}
	}
	a := s.speaking("a.test", note("a"), "h2", "http/1.1")
	b := s.speaking("b.test", note("b"), "h2", "http/1.1")
	s.apply(targets(map[string]uint16{"a.test": a.addr.Port(), "b.test": b.addr.Port()}), ", retry: {attempts: 2, on: [connect, '503'], backoff: 1ms}")
	c := s.client(&site{addr: netip.MustParseAddrPort(standin + ":443")}, "search.test")
	for range 10 {
		if r := fetch(c, request(t, "POST", "https://search.test/x", strings.NewReader("hello"))); r.err != nil || r.Proto != "HTTP/2.0" || r.text != "hello" {
			t.Fatalf("%v %+v", r.err, r.Response)
		}
	}
	mu.Lock()
	if seen[fmt.Sprintf("a HTTP/2.0 a.test:%d", a.addr.Port())] != 5 || seen[fmt.Sprintf("b HTTP/2.0 b.test:%d", b.addr.Port())] != 5 {
		t.Errorf("%v", seen)
	}
	clear(seen)
	mu.Unlock()
	for range 10 {
		if r := fetch(c, request(t, "GET", "https://search.test/busy", nil)); r.err != nil || r.StatusCode != 200 {
			t.Fatalf("%v %+v", r.err, r.Response)
		}
	}
	if a.conns.Load() != 1 || b.conns.Load() != 1 {
		t.Errorf("%d and %d connections", a.conns.Load(), b.conns.Load())
	}
}

// TestTargetsByProxy: targets are reached by the upstream proxy, told their own
// names, but for those of no_proxy.
func TestTargetsByProxy(t *testing.T) {
	d := newDetour(t, `
upstream_proxy: { url: "%s", no_proxy: [corp.example] }
upstreams: { search: { targets: [ {target: "t.example.com:443"}, {target: "t.corp.example:4433"} ] } }
rules: [{ name: search, match: { hosts: [search.test] }, private: [127.0.0.0/8], action: allow, upstream: search, retry: { attempts: 2, on: [connect], backoff: 0s } }]
`)
	away := d.outside("t.example.com")
	d.stands(standin, "search.test")
	d.know("t.corp.example", netip.MustParseAddr("127.0.0.1")) // nobody listens
	c := d.mustTLS(1, standin+":443", "search.test")
	for range 4 {
		if r := get(t, c, "search.test", "/"); r.err != nil || r.text != "hello t.example.com /" {
			t.Fatalf("%v %q", r.err, r.text)
		}
	}
	if got := d.wants(); !slices.Equal(got, []string{"t.example.com:443"}) || away.reqs.Load() != 4 {
		t.Errorf("the proxy was asked for %v", got)
	}
	if d.book.wasAsked("t.example.com") || d.book.wasAsked("search.test") || !d.book.wasAsked("t.corp.example") {
		t.Errorf("resolved: %v", d.book.asked)
	}
}

// TestTargetMoves: when the addresses of a target change, requests follow, and a
// connection to an old one is not used again.
func TestTargetMoves(t *testing.T) {
	s := newStreet(t)
	a := s.target("a.test", "", false, nil)
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", a.addr.Port()))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "moved") })}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	s.apply(targets(map[string]uint16{"a.test": a.addr.Port()}), "")
	c := s.clear()
	if r := get(t, c, "search.test", "/"); !strings.HasPrefix(r.text, "a.test ") {
		t.Fatalf("%v %q", r.err, r.text)
	}
	s.book.mu.Lock()
	s.book.addrs["a.test"] = []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	s.book.mu.Unlock()
	until(t, "the new address", func() bool {
		time.Sleep(100 * time.Millisecond)
		return get(t, c, "search.test", "/").text == "moved"
	})
}

// TestUpgradeHoldsItsTarget: what has become another protocol counts at its
// target until it ends.
func TestUpgradeHoldsItsTarget(t *testing.T) {
	s := newStreet(t)
	upgrade := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, r.Host)
			return
		}
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	}
	a, b := s.target("a.test", "", false, upgrade), s.target("b.test", "", false, upgrade)
	s.apply("algorithm: least_conn, "+targets(map[string]uint16{"a.test": a.addr.Port(), "b.test": b.addr.Port()}), "")
	c := s.clear()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: search.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n\x00hello")
	got := make([]byte, 200)
	for n := 0; !strings.Contains(string(got[:n]), "hello"); {
		m, err := c.Read(got[n:])
		if err != nil {
			t.Fatalf("%v after %q", err, got[:n])
		}
		n += m
	}
	other := s.clear()
	hosts := func(n int) map[string]int {
		seen := map[string]int{}
		for range n {
			seen[get(t, other, "search.test", "/").text[:1]]++
		}
		return seen
	}
	if seen := hosts(6); seen["b"] != 6 {
		t.Errorf("%v while a is busy", seen)
	}
	c.Close()
	until(t, "a is free again", func() bool { return hosts(4)["a"] == 2 })
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
