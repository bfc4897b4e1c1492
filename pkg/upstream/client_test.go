package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func certificatePEM(c tls.Certificate) []byte {
	var out []byte
	for _, der := range c.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func keyPEM(t testing.TB, c tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestParseClientCertificate(t *testing.T) {
	ca := newAuthority(t, "root")
	good, other := ca.issue(t, nil, nil), ca.issue(t, nil, nil)
	old := ca.issue(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	for _, tt := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"good", certificatePEM(good), keyPEM(t, good), ""},
		{"key of another", certificatePEM(good), keyPEM(t, other), "c.pem with key c.key: tls: private key does not match"},
		{"no certificate", keyPEM(t, good), keyPEM(t, good), "c.pem"},
		{"no key", certificatePEM(good), certificatePEM(good), "c.key"},
		{"empty", nil, nil, "c.pem"},
		{"expired", certificatePEM(old), keyPEM(t, old), "c.pem: the certificate expired on"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseClientCertificate(PEMFile{"c.pem", tt.cert}, PEMFile{"c.key", tt.key})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	a, b := pair(t, ca), pair(t, ca)
	if a.Fingerprint() == b.Fingerprint() || a.Fingerprint() == "" {
		t.Error("two certificates have one fingerprint")
	}
}

// TestClientCertificate covers RFC 8446 section 4.4.2 and RFC 5246 section
// 7.4.6 from our side.
func TestClientCertificate(t *testing.T) {
	ca, clients, strangers := newAuthority(t, "root"), newAuthority(t, "clients"), newAuthority(t, "strangers")
	mine := pair(t, clients)
	for _, version := range bothVersions {
		for _, tt := range []struct {
			name  string
			auth  tls.ClientAuthType
			lists *authority
			show  *ClientCertificate
			// alert is what the upstream answers; shown is the subject it sees.
			alert string
			shown bool
		}{
			{"asked for and shown", tls.RequireAndVerifyClientCert, clients, mine, "", true},
			{"asked for and not there", tls.RequireAndVerifyClientCert, clients, nil, "certificate required", false},
			{"not asked for", tls.NoClientCert, clients, mine, "", false},
			{"asked for by an upstream that lists other authorities", tls.RequestClientCert, strangers, mine, "", true},
			{"of an authority that the upstream does not know", tls.RequireAndVerifyClientCert, strangers, mine, "unknown certificate authority", false},
		} {
			t.Run(tls.VersionName(version)+"/"+tt.name, func(t *testing.T) {
				s := serve(t, "127.0.0.1:0", &tls.Config{
					Certificates: []tls.Certificate{ca.issue(t, nil, nil)}, MaxVersion: version, ClientAuth: tt.auth, ClientCAs: tt.lists.pool(),
				})
				p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
				k := Key{Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port(), Client: tt.show}
				c, err := p.Host(k).Dial(context.Background(), route(s), nil)
				if err == nil {
					defer c.Close()
					if tt.alert != "" {
						// TLS 1.3 hears it only now.
						_, err = c.Read(make([]byte, 1))
						if text, ok := Unwelcome(err); !ok || !strings.Contains(text, "upstream_tls") {
							t.Errorf("%q, %v does not say what to do", text, ok)
						}
					}
				} else if text := err.(*Error).Text; !strings.Contains(text, "upstream_tls") {
					t.Errorf("%q does not say what to do", text)
				}
				if tt.alert != "" {
					alert, ok := remoteAlert(err)
					if version == tls.VersionTLS12 && tt.alert == "certificate required" {
						tt.alert = "handshake failure" // RFC 5246 section 7.4.6
					}
					if !ok || alert != tt.alert {
						t.Errorf("%v, want the alert %q", err, tt.alert)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				seen := s.next(t).(*tls.Conn).ConnectionState().PeerCertificates
				if (len(seen) == 1) != tt.shown {
					t.Errorf("the upstream saw %d certificates, want one: %v", len(seen), tt.shown)
				}
			})
		}
	}
}

// Two rules may lead to one upstream under two certificates: its connections
// are as different as those of two workloads.
func TestCertificatesAreNotShared(t *testing.T) {
	ca := newAuthority(t, "root")
	s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}, ClientAuth: tls.RequestClientCert})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	k := Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port(), Client: pair(t, ca)}
	c := mustDial(t, p.Host(k), route(s), nil)
	io.WriteString(s.next(t), "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.Release()
	for name, other := range map[string]*ClientCertificate{"none": nil, "another": pair(t, ca)} {
		k := k
		k.Client = other
		if p.Host(k).Idle(route(s), nil, c) != nil {
			t.Errorf("a connection with one certificate was given to a rule with %s", name)
		}
	}
	if p.Host(k).Idle(route(s), nil, c) != c {
		t.Error("the connection was not kept for its own rule")
	}
	c.Close()
}

func TestNoCertificateIsShownToAStranger(t *testing.T) {
	ca, stranger := newAuthority(t, "root"), newAuthority(t, "stranger")
	asked := make(chan int, 1)
	s := serve(t, "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{stranger.issue(t, nil, nil)}, ClientAuth: tls.RequestClientCert,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error { asked <- len(raw); return nil },
	})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	_, err := p.Host(Key{Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port(), Client: pair(t, ca)}).Dial(context.Background(), route(s), nil)
	var e *Error
	if !errors.As(err, &e) || e.Fault != UnknownAuthority {
		t.Fatalf("%v", err)
	}
	select {
	case n := <-asked:
		t.Errorf("%d certificates were shown to an upstream that was not verified", n)
	default:
	}
}
