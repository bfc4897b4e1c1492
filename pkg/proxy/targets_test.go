package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/policy"
	"sallyport/test/port"
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
func (s *street) free() uint16 { return port.Refusing(s.t, "127.0.0.1").Port() }

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
		for n, preserve := range []bool{false, true} {
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
			s.event(audit.Exchange, 6*(n+1)) // the connections are back in the pool
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
	nobody := port.Refusing(t, "127.0.0.1")
	d := newDetour(t, strings.Replace(`
upstream_proxy: { url: "%s", no_proxy: [corp.example] }
upstreams: { search: { targets: [ {target: "t.example.com:443"}, {target: "t.corp.example:%d"} ] } }
rules: [{ name: search, match: { hosts: [search.test] }, private: [127.0.0.0/8], action: allow, upstream: search, retry: { attempts: 2, on: [connect], backoff: 0s } }]
`, "%d", fmt.Sprint(nobody.Port()), 1))
	away := d.outside("t.example.com")
	d.stands(standin, "search.test")
	d.know("t.corp.example", nobody.Addr())
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
	places := port.Hold(t, "127.0.0.1", "127.0.0.2")
	a := s.webAt("a.test", places[0].Listen(), nil, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "at first") })
	s.webAt("", places[1].Listen(), nil, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "moved") })
	s.apply(targets(map[string]uint16{"a.test": a.addr.Port()}), "")
	c := s.clear()
	if r := get(t, c, "search.test", "/"); r.text != "at first" {
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
