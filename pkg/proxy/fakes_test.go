package proxy

import (
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
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/origin"
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
	for name := range strings.SplitSeq(name, " ") {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = []net.IP{ip}
		} else {
			tmpl.DNSNames = []string{name}
		}
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
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
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
	host      func(netip.Addr) bool
	listener  func(netip.AddrPort) bool
	elsewhere func(netns uint64, a netip.Addr) bool
}

func (o own) Host(a netip.Addr) bool         { return o.host != nil && o.host(a) }
func (o own) Listener(a netip.AddrPort) bool { return o.listener != nil && o.listener(a) }
func (o own) Elsewhere(netns uint64, a netip.Addr) bool {
	return o.elsewhere != nil && o.elsewhere(netns, a)
}

type identities struct{}

func (identities) Identify(_ context.Context, f *origin.Flow) (workload.Identity, string, error) {
	if f.Cgroup == 0 {
		return workload.Identity{}, "", errors.New("no such cgroup")
	}
	return workload.Identity{Name: fmt.Sprintf("w%d", f.Cgroup), Cgroup: fmt.Sprintf("/w%d", f.Cgroup), Confined: true}, "/usr/bin/client", nil
}

// pattern is an endless stream without a short period.
type pattern struct{ n uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n++
		b[i] = byte(p.n * 0x9e3779b97f4a7c15 >> 56)
	}
	return len(b), nil
}

// heap watches how much memory the process takes at most.
type heap struct {
	idle uint64
	peak atomic.Uint64
}

func (h *heap) watch(t testing.TB) {
	runtime.GC()
	read := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapSys - m.HeapReleased + m.StackSys
	}
	h.idle = read()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if now := read(); now > h.peak.Load() {
					h.peak.Store(now)
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
}

func (h *heap) below(t testing.TB, n uint64) {
	t.Helper()
	if p := h.peak.Load(); p > h.idle && p-h.idle > n {
		t.Errorf("%d bytes above idle, want below %d", p-h.idle, n)
	}
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
