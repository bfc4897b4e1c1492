package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

var bothVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// visit opens a connection, reads one byte (with which the tickets of TLS 1.3
// come) and tells whether it resumed a session, as both sides saw it.
func visit(t testing.TB, p *Pool, k Key, s *server) (resumed bool) {
	t.Helper()
	c := mustDial(t, p.Host(k), route(s), nil)
	far := s.next(t)
	io.WriteString(far, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ours, theirs := c.tls.ConnectionState().DidResume, far.(*tls.Conn).ConnectionState().DidResume
	if ours != theirs {
		t.Errorf("we resumed: %v, the upstream: %v", ours, theirs)
	}
	c.Close()
	return ours
}

// pair gives a client certificate as it comes from files.
func pair(t testing.TB, ca *authority) *ClientCertificate {
	t.Helper()
	c := ca.issue(t, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ParseClientCertificate(
		PEMFile{"client.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})},
		PEMFile{"client.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
	)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSessionsAreResumed covers RFC 8446 section 2.2 and RFC 5077, and what a
// session must never cross.
func TestSessionsAreResumed(t *testing.T) {
	ca := newAuthority(t, "root")
	both := func(c *x509.Certificate) { c.DNSNames = []string{"api.example.com", "other.example.com"} }
	for _, version := range bothVersions {
		s := serve(t, "127.0.0.1:0", &tls.Config{
			Certificates: []tls.Certificate{ca.issue(t, nil, both)}, MaxVersion: version,
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.pool(),
		})
		base := Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port()}
		mine, another := pair(t, ca), pair(t, ca)
		for _, tt := range []struct {
			name    string
			first   func(*Key)
			second  func(*Key)
			between func(*Pool)
			want    bool
		}{
			{name: "the same", want: true},
			{name: "with other protocols offered", second: func(k *Key) { k.ALPN = "h2" }, want: true},
			{name: "another workload", second: func(k *Key) { k.Workload = "v" }},
			{name: "another name of the certificate", second: func(k *Key) { k.Host, k.Name = "other.example.com", "other.example.com" }},
			{name: "another host with that name", second: func(k *Key) { k.Host = "other.example.com" }},
			{name: "with a certificate of ours", second: func(k *Key) { k.Client = mine }},
			{name: "with the same certificate of ours", first: func(k *Key) { k.Client = mine }, second: func(k *Key) { k.Client = mine }, want: true},
			{name: "with another certificate of ours", first: func(k *Key) { k.Client = mine }, second: func(k *Key) { k.Client = another }},
			{name: "without the certificate of ours", first: func(k *Key) { k.Client = mine }},
			{name: "after a change of trust", between: func(p *Pool) { p.SetTrust(Trust{Roots: ca.pool()}) }},
			{name: "after its end", between: func(p *Pool) {
				for _, k := range p.sessions.Keys() {
					v, _ := p.sessions.Peek(k)
					v.until = time.Now()
					p.sessions.Add(k, v)
				}
			}},
		} {
			t.Run(fmt.Sprintf("%s/%s", tls.VersionName(version), tt.name), func(t *testing.T) {
				p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
				one, two := base, base
				if tt.first != nil {
					tt.first(&one)
				}
				if tt.second != nil {
					tt.second(&two)
				}
				if visit(t, p, one, s) {
					t.Fatal("the first connection resumed a session")
				}
				if tt.between != nil {
					tt.between(p)
				}
				if got := visit(t, p, two, s); got != tt.want {
					t.Errorf("resumed: %v, want %v", got, tt.want)
				}
			})
		}
	}
}

// Tickets of TLS 1.3 come when a connection is read, which may be after the
// roots that it was verified against are gone.
func TestSessionOfFormerTrustComesLate(t *testing.T) {
	ca := newAuthority(t, "root")
	s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	k := Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port()}
	c := mustDial(t, p.Host(k), route(s), nil)
	defer c.Close()
	p.SetTrust(Trust{Roots: ca.pool()})
	io.WriteString(s.next(t), "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if p.sessions.Len() == 0 {
		t.Fatal("no ticket came; the test shows nothing")
	}
	if visit(t, p, k, s) {
		t.Error("a session of former trust was resumed")
	}
}

// TestResumedIsAsVerifiedAsFull: what has become wrong since the first handshake
// is found on the second, and what only the full handshake shows is asked for
// again when it ends.
func TestResumedIsAsVerifiedAsFull(t *testing.T) {
	ca := newAuthority(t, "root")
	must := func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{features(t, statusRequest)} }
	for _, version := range bothVersions {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cert := ca.issue(t, nil, must)
			leaf, err := x509.ParseCertificate(cert.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			end := time.Now().Add(90 * time.Minute)
			answer := func(status int) *tls.Certificate {
				c := cert
				c.OCSPStaple = staple(t, ca, leaf, func(r *ocsp.Response) { r.Status, r.RevokedAt, r.NextUpdate = status, time.Now(), end }, nil)
				return &c
			}
			var now atomic.Pointer[tls.Certificate]
			now.Store(answer(ocsp.Good))
			s := serve(t, "127.0.0.1:0", &tls.Config{MaxVersion: version, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return now.Load(), nil }})
			p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
			k := Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port()}
			visit(t, p, k, s)
			if !visit(t, p, k, s) {
				t.Fatal("a session with a good staple is not resumed")
			}
			for _, id := range p.sessions.Keys() {
				got, _ := p.sessions.Peek(id)
				if got.until.After(leaf.NotAfter) || got.until.After(end) {
					t.Errorf("the session lives until %v, its certificate until %v, its staple until %v", got.until, leaf.NotAfter, end)
				}
				// The staple ends; by now the upstream staples something else.
				got.until = time.Now()
				p.sessions.Add(id, got)
			}
			now.Store(answer(ocsp.Revoked))
			_, err = p.Host(k).Dial(context.Background(), route(s), nil)
			var e *Error
			if !errors.As(err, &e) || e.Fault != Revoked {
				t.Errorf("%v, want revoked", err)
			}
		})
	}
}

// verify is asked for resumed connections too, with what the session kept.
func TestVerifyRefusesResumed(t *testing.T) {
	ca := newAuthority(t, "root")
	cert, err := x509.ParseCertificate(ca.issue(t, nil, func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{features(t, statusRequest)} }).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	p := newPool(t, Options{})
	r := &resumption{all: p.sessions, key: "k"}
	state := tls.ConnectionState{DidResume: true, PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert, ca.cert}}}
	if err := r.verify(state); err == nil {
		t.Error("a resumed session of a must-staple without a staple was taken")
	}
	state.VerifiedChains = nil
	if err := r.verify(state); err == nil {
		t.Error("a resumed session without a verified chain was taken")
	}
	if !r.until.IsZero() {
		t.Error("a session of an unverified connection would be kept")
	}
	// A resumed connection does not prolong what it goes on with.
	end := time.Now().Add(time.Minute)
	r.offered = end
	state.VerifiedChains = [][]*x509.Certificate{{cert, ca.cert}}
	state.OCSPResponse = staple(t, ca, cert, nil, nil)
	if err := r.verify(state); err != nil || !r.until.Equal(end) {
		t.Errorf("until %v, want %v (%v)", r.until, end, err)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	ca := newAuthority(t, "root")
	cfg := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}}
	s := serve(t, "127.0.0.1:0", cfg)
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}, MaxSessions: 3})
	k := Key{Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port()}
	for i := range 5 {
		k.Workload = fmt.Sprint("w", i)
		visit(t, p, k, s)
	}
	for _, r := range p.Resources() {
		if r.Name == "upstream_tls_sessions" && (r.Entries != 3 || r.Capacity != 3) {
			t.Errorf("%+v", r)
		}
	}
	if k.Workload = "w4"; !visit(t, p, k, s) {
		t.Error("the newest session was forgotten")
	}
	if k.Workload = "w0"; visit(t, p, k, s) {
		t.Error("the oldest session was kept")
	}
	// An upstream chooses how large its tickets are.
	large := cfg.Clone()
	large.WrapSession = func(tls.ConnectionState, *tls.SessionState) ([]byte, error) { return make([]byte, maxTicket+1), nil }
	s = serve(t, "127.0.0.1:0", large)
	p = newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	k.Port = s.addr.Port()
	visit(t, p, k, s)
	if n := p.sessions.Len(); n != 0 {
		t.Errorf("%d sessions with a ticket over the bound", n)
	}
}

func BenchmarkDialFull(b *testing.B)    { benchmarkDial(b, true) }
func BenchmarkDialResumed(b *testing.B) { benchmarkDial(b, false) }

func benchmarkDial(b *testing.B, forget bool) {
	ca := newAuthority(b, "root")
	s := serve(b, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(b, nil, nil)}})
	p := newPool(b, Options{Trust: Trust{Roots: ca.pool()}})
	k := Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port()}
	b.ReportAllocs()
	for b.Loop() {
		if forget {
			p.sessions.Purge()
		}
		visit(b, p, k, s)
	}
}
