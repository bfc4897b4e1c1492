package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/policy"
	"sallyport/test/port"
)

func TestUpstreamTLSFaults(t *testing.T) {
	ca, other := newAuthority(t, "the root"), newAuthority(t, "another root")
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	with := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	for _, tt := range []struct {
		name  string
		cfg   *tls.Config
		fault Fault
		text  string
	}{
		{"good", with(ca.issue(t, nil, nil)), NoFault, ""},
		{"expired", with(ca.issue(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), Expired, "expired on"},
		{"not yet", with(ca.issue(t, nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })), NotYetValid, "not valid before"},
		{"self-signed", with((*authority)(nil).issue(t, nil, nil)), SelfSigned, "self-signed"},
		{"unknown", with(other.issue(t, nil, nil)), UnknownAuthority, "another root"},
		{"wrong name", with(ca.issue(t, nil, func(c *x509.Certificate) { c.DNSNames = []string{"other.example.com"} })), WrongName, "not for api.example.com but for \"other.example.com\""},
		{"client usage", with(ca.issue(t, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), BadCertificate, "invalid"},
		{"weak rsa", with(ca.issue(t, rsa1024, nil)), WeakKey, "RSA of 1024 bits"},
		{"weak curve", with(ca.issue(t, p224, nil)), Handshake, "handshake"},
		{"old version", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, Handshake, "protocol version"},
		{"demands a certificate", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, Handshake, "handshake failure"},
		{"no http/1.1", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}, NextProtos: []string{"smtp"}}, Handshake, "none of the protocols"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, "127.0.0.1:0", tt.cfg)
			p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
			h := p.Host(Key{Workload: "w", Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com", ALPN: "h2,http/1.1"})
			c, err := h.Dial(context.Background(), route(s), nil)
			if tt.fault == NoFault {
				if err != nil {
					t.Fatal(err)
				}
				if c.TLSVersion() != tls.VersionTLS13 || c.Attempts() != 1 {
					t.Errorf("version %x, attempts %d", c.TLSVersion(), c.Attempts())
				}
				c.Close()
				return
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%v", err)
			}
			if e.Fault != tt.fault || e.Reason != policy.UpstreamTLS || !strings.Contains(e.Text, tt.text) {
				t.Errorf("fault %s, reason %s, text %q; want %s and %q", e.Fault, e.Reason, e.Text, tt.fault, tt.text)
			}
		})
	}
}

func TestNotTLS(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	go func() {
		c := s.next(t)
		c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	}()
	p := newPool(t, Options{})
	_, err := p.Host(Key{Host: "x.example", Port: s.addr.Port(), Name: "x.example"}).Dial(context.Background(), route(s), nil)
	var e *Error
	if !errors.As(err, &e) || e.Fault != NotTLS {
		t.Errorf("%v", err)
	}
}

func TestIPNamesAreVerified(t *testing.T) {
	ca := newAuthority(t, "root")
	good := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	bad := serve(t, "127.0.0.2:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	if c, err := p.Host(Key{Host: "127.0.0.1", Port: good.addr.Port(), Name: "127.0.0.1"}).Dial(context.Background(), route(good), nil); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	_, err := p.Host(Key{Host: "127.0.0.2", Port: bad.addr.Port(), Name: "127.0.0.2"}).Dial(context.Background(), route(bad), nil)
	var e *Error
	if !errors.As(err, &e) || e.Fault != WrongName {
		t.Errorf("%v", err)
	}
}

// A name is never left out of verification: without one the handshake fails
// instead of accepting any certificate.
func TestNoNameNoConnection(t *testing.T) {
	ca := newAuthority(t, "root")
	s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	if c, err := p.Host(Key{Port: s.addr.Port()}).Dial(context.Background(), route(s), nil); err == nil {
		c.Close()
		t.Error("connected without a name to verify")
	}
}

// One address whose path breaks TLS must not hide another that works; one whose
// certificate is wrong must not be shopped around.
func TestHandshakeFailureTriesNextAddress(t *testing.T) {
	ca := newAuthority(t, "root")
	places := port.Hold(t, "127.0.0.1", "127.0.0.2")
	good := serveOn(t, places[1].Listen(), &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	broken := places[0].Listen()
	defer broken.Close()
	go func() {
		for {
			c, err := broken.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	h := p.Host(Key{Host: "api.example.com", Port: good.addr.Port(), Name: "api.example.com"})
	c, err := h.Dial(context.Background(), Route{Addrs: addrs("127.0.0.1", "127.0.0.2")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Addr().String() != "127.0.0.2" || c.Attempts() != 2 {
		t.Errorf("%s after %d", c.Addr(), c.Attempts())
	}
}

func TestSessionsAreResumedPerKey(t *testing.T) {
	ca := newAuthority(t, "root")
	s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	open := func(workload string) bool {
		h := p.Host(Key{Workload: workload, Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com"})
		c, err := h.Dial(context.Background(), route(s), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		far := s.next(t)
		// The ticket comes with the first bytes.
		far.Write([]byte("x"))
		var b [1]byte
		if _, err := c.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		return c.tls.ConnectionState().DidResume
	}
	if open("a") {
		t.Error("the first handshake resumed something")
	}
	if !open("a") {
		t.Error("the second handshake of a workload did not resume")
	}
	if open("b") {
		t.Error("a session of one workload was resumed for another")
	}
	p.SetTrust(Trust{Roots: ca.pool()})
	if open("a") {
		t.Error("a session verified against former roots was resumed")
	}
}

func TestSystemRoots(t *testing.T) {
	ca := newAuthority(t, "root")
	good := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	if _, err := SystemRoots(PEMFile{"ca.pem", good}); err != nil {
		t.Error(err)
	}
	for _, data := range []string{"", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := SystemRoots(PEMFile{"ca.pem", []byte(data)}); err == nil || !strings.Contains(err.Error(), "ca.pem") {
			t.Errorf("%q: %v", data, err)
		}
	}
}
