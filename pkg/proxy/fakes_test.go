package proxy

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/config"
	"sallyport/pkg/metrics"
	"sallyport/pkg/origin"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
	"sallyport/pkg/workload"
)

// authority is a certificate authority; as Leaves it is that of the proxy.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	mu   sync.Mutex
	made map[string]*tls.Certificate
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, made: map[string]*tls.Certificate{}}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// leaf makes a certificate; a nil authority signs itself.
func (a *authority) leaf(name string, change func(*x509.Certificate)) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{name}
	}
	if change != nil {
		change(tmpl)
	}
	parent, signer := tmpl, crypto.Signer(key)
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func (a *authority) Certificate(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.made[name]; c != nil {
		return c, nil
	}
	c, err := a.leaf(name, nil)
	a.made[name] = c
	return c, err
}

// flows is an Origin that the test's clients fill.
type flows struct {
	mu  sync.Mutex
	all map[string]origin.Flow
}

func (f *flows) set(client net.Addr, flow origin.Flow) {
	f.mu.Lock()
	f.all[client.String()] = flow
	f.mu.Unlock()
}

func (f *flows) Flow(conn syscall.Conn) (origin.Flow, error) {
	who := conn.(net.Conn).RemoteAddr().String()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		flow, ok := f.all[who]
		f.mu.Unlock()
		if ok {
			if flow.ID == 0 {
				return flow, origin.ErrNoFlow
			}
			return flow, nil
		}
	}
	return origin.Flow{}, origin.ErrNoFlow
}

// book is a Resolver.
type book struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	names map[netip.Addr]string
	asked []string
}

func (b *book) Lookup(_ context.Context, _, host string) ([]netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, host)
	if a := b.addrs[host]; len(a) > 0 {
		return a, nil
	}
	return nil, errors.New("name has no address")
}

func (b *book) Name(_ string, addr netip.Addr) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.names[addr]
	return n, ok
}

func (b *book) wasAsked(host string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.asked, host)
}

// log is an Audit.
type auditLog struct {
	mu     sync.Mutex
	events []audit.Event
	fault  error
	ids    atomic.Int64
}

func (l *auditLog) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

func (l *auditLog) fail(err error) {
	l.mu.Lock()
	l.fault = err
	l.mu.Unlock()
}

func (l *auditLog) NextID() string { return fmt.Sprintf("id-%d", l.ids.Add(1)) }

func (l *auditLog) Record(e *audit.Event) {
	l.mu.Lock()
	l.events = append(l.events, *e)
	l.mu.Unlock()
}

func (l *auditLog) all(kind audit.Kind) []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []audit.Event
	for _, e := range l.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

type own struct {
	host     func(netip.Addr) bool
	listener func(netip.AddrPort) bool
}

func (o own) Host(a netip.Addr) bool         { return o.host != nil && o.host(a) }
func (o own) Listener(a netip.AddrPort) bool { return o.listener != nil && o.listener(a) }

type identities struct{}

func (identities) Identify(_ context.Context, f *origin.Flow) (workload.Identity, string, error) {
	if f.Cgroup == 0 {
		return workload.Identity{}, "", errors.New("no such cgroup")
	}
	return workload.Identity{Name: fmt.Sprintf("w%d", f.Cgroup), Cgroup: fmt.Sprintf("/w%d", f.Cgroup), Confined: true}, "/usr/bin/client", nil
}

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
	return &Settings{Policy: p, Timeouts: c.Timeouts}
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
		g.p.kill()
		g.stop()
	})
	return g
}

// dial makes a captured connection of workload w<cgroup> to dst.
func (g *gate) dial(cgroup uint64, dst string) *net.TCPConn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	g.origin.set(c.LocalAddr(), origin.Flow{ID: g.nextFlow.Add(1), Dst: netip.MustParseAddrPort(dst), Cgroup: cgroup, PID: 4711, UID: 1000})
	g.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
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
	s := &site{addr: netip.MustParseAddrPort(ln.Addr().String())}
	return counted{ln, s}, s
}

// web serves HTTP, over TLS if cert is given; host becomes known to the
// resolver.
func (g *gate) web(host, at string, cert *tls.Certificate, h http.HandlerFunc) *site {
	g.t.Helper()
	ln, s := g.listen(at)
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
	ln, s := g.listen(at)
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
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not reached: %s", what)
		}
	}
}
