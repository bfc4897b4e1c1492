package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/metrics"
	"sallyport/pkg/origin"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// gate is a proxy under test.
type gate struct {
	t        testing.TB
	p        *Proxy
	pool     *upstream.Pool
	ca       *authority // the proxy's
	internet *authority // the upstreams'
	origin   *flows
	book     *book
	log      *auditLog
	metrics  *metrics.Metrics
	addr     string
	nextFlow atomic.Uint64
	stop     func()
	clients  clients
}

// clients are the connections of a test's clients.
type clients struct {
	mu   sync.Mutex
	all  []net.Conn
	over bool
}

// add has a connection closed at the end; false is that the end has come.
func (c *clients) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, conn)
	return !c.over
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, conn := range c.all {
		conn.Close()
	}
}

// settings compiles rules, which may name 127.0.0.0/8 as private.
func settings(t testing.TB, yaml string) *Settings {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte("version: 1\n" + yaml)}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return &Settings{Policy: p, Timeouts: c.Timeouts, Balance: balance.New(balance.Options{}).Apply(c)}
}

func newGate(t testing.TB, yaml string, change func(*Options)) *gate {
	t.Helper()
	g := &gate{
		t: t, ca: newAuthority(t, "sallyport"), internet: newAuthority(t, "internet"),
		origin:  &flows{all: map[string]origin.Flow{}},
		book:    &book{addrs: map[string][]netip.Addr{}, names: map[netip.Addr]string{}},
		log:     &auditLog{},
		metrics: metrics.New(metrics.Options{}),
	}
	var err error
	if g.pool, err = upstream.New(upstream.Options{Trust: upstream.Trust{Roots: g.internet.pool()}}); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Origin: g.origin, Identities: identities{}, Resolver: g.book, Leaves: g.ca, Audit: g.log, Own: own{},
		Metrics: g.metrics, Upstream: g.pool, Log: zap.NewNop(),
	}
	if change != nil {
		change(&o)
	}
	if g.p, err = New(o, settings(t, yaml)); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	runCtx, stopRun := context.WithCancel(context.Background())
	wg.Go(func() { g.p.Run(runCtx) })
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := g.p.Serve(ctx, ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	g.stop = sync.OnceFunc(func() {
		cancel()
		<-served
		stopRun()
		wg.Wait()
		g.pool.Close()
	})
	t.Cleanup(func() {
		g.clients.close()
		g.p.kill()
		g.stop()
	})
	return g
}

// dial makes a captured connection of workload w<cgroup> to dst.
func (g *gate) dial(cgroup uint64, dst string) *net.TCPConn {
	g.t.Helper()
	c, err := g.connect(cgroup, dst)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// connect is dial for clients that may connect when the test is over: net/http opens
// a connection for each request that waits, also where another one is free meanwhile.
func (g *gate) connect(cgroup uint64, dst string) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	g.origin.set(c.LocalAddr(), origin.Flow{ID: g.nextFlow.Add(1), Dst: netip.MustParseAddrPort(dst), Cgroup: cgroup, PID: 4711, UID: 1000})
	if !g.clients.add(c) {
		c.Close()
		return nil, net.ErrClosed
	}
	return c.(*net.TCPConn), nil
}

// dialTLS is dial with a handshake that trusts the proxy's authority.
func (g *gate) dialTLS(cgroup uint64, dst, sni string, alpn ...string) (*tls.Conn, error) {
	g.t.Helper()
	c := tls.Client(g.dial(cgroup, dst), &tls.Config{ServerName: sni, RootCAs: g.ca.pool(), NextProtos: alpn})
	return c, c.Handshake()
}

func (g *gate) mustTLS(cgroup uint64, dst, sni string) *tls.Conn {
	g.t.Helper()
	c, err := g.dialTLS(cgroup, dst, sni, "http/1.1")
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// reply is a response that was read to its end.
type reply struct {
	*http.Response
	text string
	err  error
}

func ask(t testing.TB, c net.Conn, request string) reply {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		return reply{err: err}
	}
	return read(t, bufio.NewReader(c), strings.Fields(request)[0])
}

func read(t testing.TB, r *bufio.Reader, method string) reply {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return reply{err: err}
	}
	if method == "CONNECT" && resp.StatusCode == 200 {
		return reply{resp, "", nil}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b), err}
}

func get(t testing.TB, c net.Conn, host, path string) reply {
	t.Helper()
	return ask(t, c, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
}

func (r reply) mustRefuse(t testing.TB, status int, reason string) {
	t.Helper()
	if r.err != nil {
		t.Fatalf("no answer: %v", r.err)
	}
	if r.StatusCode != status || r.Header.Get("X-Sallyport-Reason") != reason || !strings.Contains(r.text, `"reason":"`+reason+`"`) {
		t.Errorf("got %d %q %s; want %d %s", r.StatusCode, r.Header.Get("X-Sallyport-Reason"), r.text, status, reason)
	}
}

// site is an upstream server that counts what reaches it.
type site struct {
	addr  netip.AddrPort
	conns atomic.Int64
	reqs  atomic.Int64
}

func (s *site) dst() string { return s.addr.String() }

type counted struct {
	net.Listener
	s *site
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.s.conns.Add(1)
	}
	return c, err
}

func (g *gate) listen(at string) (net.Listener, *site) {
	g.t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		g.t.Fatal(err)
	}
	return count(ln)
}

func count(ln net.Listener) (net.Listener, *site) {
	s := &site{addr: netip.MustParseAddrPort(ln.Addr().String())}
	return counted{ln, s}, s
}

// web serves HTTP, over TLS if cert is given; host becomes known to the
// resolver.
func (g *gate) web(host, at string, cert *tls.Certificate, h http.HandlerFunc) *site {
	g.t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.webAt(host, ln, cert, h)
}

// webAt is web on a listener.
func (g *gate) webAt(host string, at net.Listener, cert *tls.Certificate, h http.HandlerFunc) *site {
	g.t.Helper()
	ln, s := count(at)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.reqs.Add(1)
		if h != nil {
			h(w, r)
			return
		}
		fmt.Fprintf(w, "hello %s %s", r.Host, r.URL.RequestURI())
	})}
	if cert != nil {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}})
	}
	go srv.Serve(ln)
	g.t.Cleanup(func() { srv.Close() })
	g.know(host, s.addr.Addr())
	return s
}

func (g *gate) know(host string, addr netip.Addr) {
	g.book.mu.Lock()
	defer g.book.mu.Unlock()
	if host != "" {
		g.book.addrs[host] = append(g.book.addrs[host], addr)
		g.book.names[addr] = host
	}
}

// secure serves HTTPS with a good certificate.
func (g *gate) secure(host string, h http.HandlerFunc) *site {
	g.t.Helper()
	cert, err := g.internet.leaf(host, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.web(host, "127.0.0.1:0", cert, h)
}

// raw serves each connection with f.
func (g *gate) raw(host, at string, f func(*net.TCPConn)) *site {
	g.t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.rawAt(host, ln, f)
}

// rawAt is raw on a listener.
func (g *gate) rawAt(host string, at net.Listener, f func(*net.TCPConn)) *site {
	g.t.Helper()
	ln, s := count(at)
	var wg sync.WaitGroup
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	}()
	g.t.Cleanup(func() { ln.Close() })
	g.know(host, s.addr.Addr())
	return s
}

// event waits for the n-th event of a kind.
func (g *gate) event(kind audit.Kind, n int) audit.Event {
	g.t.Helper()
	until(g.t, fmt.Sprintf("%d events %s", n, kind), func() bool { return len(g.log.all(kind)) >= n })
	return g.log.all(kind)[n-1]
}

func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not reached: %s", what)
		}
	}
}
