package upstream

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"sallyport/pkg/policy"
)

// staple signs a response for leaf with the key of by.
func staple(t testing.TB, issuer *authority, leaf *x509.Certificate, change func(*ocsp.Response), by *authority) []byte {
	t.Helper()
	template := ocsp.Response{
		Status: ocsp.Good, SerialNumber: leaf.SerialNumber,
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
	}
	if by != nil {
		template.Certificate = by.cert
	} else {
		by = issuer
	}
	if change != nil {
		change(&template)
	}
	der, err := ocsp.CreateResponse(issuer.cert, by.cert, template, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// responder gives a certificate of a's for signing responses; change may alter
// it.
func (a *authority) responder(t testing.TB, change func(*x509.Certificate)) *authority {
	t.Helper()
	c := a.issue(t, nil, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = nil, nil
		c.Subject = pkix.Name{CommonName: "responder"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
		if change != nil {
			change(c)
		}
	})
	cert, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, c.PrivateKey.(crypto.Signer)}
}

// features gives the extension of RFC 7633.
func features(t testing.TB, ids ...int) pkix.Extension {
	t.Helper()
	value, err := asn1.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: tlsFeature, Value: value}
}

// TestStaples covers RFC 6960 sections 3.2 and 4.2.2.2, RFC 6066 section 8 and
// RFC 7633 section 4, with both versions of TLS, which carry the response in
// different messages.
func TestStaples(t *testing.T) {
	root, stranger := newAuthority(t, "the root"), newAuthority(t, "a stranger")
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		c, err := x509.ParseCertificate(root.issue(t, nil, change).Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	must := func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{features(t, statusRequest)} }
	now := time.Now()
	revoke := func(r *ocsp.Response) {
		r.Status, r.RevokedAt, r.RevocationReason = ocsp.Revoked, now.Add(-time.Hour), ocsp.KeyCompromise
	}
	old := func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(-2*time.Hour), now.Add(-time.Hour) }
	good := func(c *x509.Certificate) []byte { return staple(t, root, c, nil, nil) }
	for _, tt := range []struct {
		name   string
		change func(*x509.Certificate)
		staple func(*x509.Certificate) []byte
		fault  Fault
		text   string
	}{
		{"none", nil, nil, NoFault, ""},
		{"good", nil, good, NoFault, ""},
		{"good for a must-staple", must, good, NoFault, ""},
		{"none for a must-staple", must, nil, NoStaple, "demands a stapled OCSP response, and the upstream sent none"},
		{"feature that is not stapling", func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{features(t, 17)} }, nil, NoFault, ""},
		{"feature that cannot be read", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: tlsFeature, Value: []byte{4, 1, 5}}}
		}, good, BadCertificate, "TLS feature"},
		{"revoked", nil, func(c *x509.Certificate) []byte { return staple(t, root, c, revoke, nil) }, Revoked, "was revoked on " + now.Add(-time.Hour).UTC().Format(time.RFC3339) + " (key compromise)"},
		{"revoked, in an old response", nil, func(c *x509.Certificate) []byte {
			return staple(t, root, c, func(r *ocsp.Response) { revoke(r); old(r) }, nil)
		}, Revoked, "was revoked on"},
		{"revoked, by a responder", nil, func(c *x509.Certificate) []byte {
			return staple(t, root, c, revoke, root.responder(t, nil))
		}, Revoked, "was revoked on"},
		{"unknown to the authority", nil, func(c *x509.Certificate) []byte {
			return staple(t, root, c, func(r *ocsp.Response) { r.Status = ocsp.Unknown }, nil)
		}, Revoked, "unknown to its authority"},
		{"old", nil, func(c *x509.Certificate) []byte { return staple(t, root, c, old, nil) }, NoFault, ""},
		{"old for a must-staple", must, func(c *x509.Certificate) []byte { return staple(t, root, c, old, nil) }, NoStaple, "expired on"},
		{"of the future for a must-staple", must, func(c *x509.Certificate) []byte {
			return staple(t, root, c, func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(time.Hour), now.Add(2*time.Hour) }, nil)
		}, NoStaple, "not valid before"},
		{"by a clock a little ahead, for a must-staple", must, func(c *x509.Certificate) []byte {
			return staple(t, root, c, func(r *ocsp.Response) { r.ThisUpdate = now.Add(2 * time.Minute) }, nil)
		}, NoFault, ""},
		{"open-ended for a must-staple", must, func(c *x509.Certificate) []byte {
			return staple(t, root, c, func(r *ocsp.Response) { r.NextUpdate = time.Time{} }, nil)
		}, NoFault, ""},
		{"open-ended and old for a must-staple", must, func(c *x509.Certificate) []byte {
			return staple(t, root, c, func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(-25*time.Hour), time.Time{} }, nil)
		}, NoStaple, "expired on"},
		{"by the issuer with its certificate", must, func(c *x509.Certificate) []byte { return staple(t, root, c, nil, root) }, NoFault, ""},
		{"by a responder", must, func(c *x509.Certificate) []byte { return staple(t, root, c, nil, root.responder(t, nil)) }, NoFault, ""},
		{"by a responder for other use", nil, func(c *x509.Certificate) []byte {
			return staple(t, root, c, nil, root.responder(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))
		}, BadStaple, "not one for OCSP signing"},
		{"by a responder that expired", nil, func(c *x509.Certificate) []byte {
			return staple(t, root, c, nil, root.responder(t, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }))
		}, BadStaple, "expired or not yet valid"},
		{"by a stranger's responder", nil, func(c *x509.Certificate) []byte { return staple(t, root, c, nil, stranger.responder(t, nil)) }, BadStaple, "not signed by the issuer"},
		{"by a stranger", nil, func(c *x509.Certificate) []byte {
			return staple(t, &authority{root.cert, stranger.key}, c, nil, nil)
		}, BadStaple, "its signature is not the issuer's"},
		{"for another certificate", nil, func(c *x509.Certificate) []byte { return good(leaf(nil)) }, BadStaple, "no response matching"},
		{"changed on the way", nil, func(c *x509.Certificate) []byte {
			b := good(c)
			b[len(b)-10] ^= 1
			return b
		}, BadStaple, "refused"},
		{"no OCSP response", nil, func(*x509.Certificate) []byte { return []byte("<html>") }, BadStaple, "refused"},
		{"with something behind it", nil, func(c *x509.Certificate) []byte { return append(good(c), 0) }, BadStaple, "trailing data"},
		{"too large", nil, func(c *x509.Certificate) []byte { return append(good(c), make([]byte, maxStaple)...) }, BadStaple, "over 65536 bytes"},
		{"try later", nil, func(*x509.Certificate) []byte { return []byte{0x30, 3, 10, 1, byte(ocsp.TryLater)} }, NoFault, ""},
		{"try later for a must-staple", must, func(*x509.Certificate) []byte { return []byte{0x30, 3, 10, 1, byte(ocsp.TryLater)} }, NoStaple, "try later"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := root.issue(t, nil, tt.change)
			parsed, err := x509.ParseCertificate(cert.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			if tt.staple != nil {
				cert.OCSPStaple = tt.staple(parsed)
			}
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				if len(cert.OCSPStaple) > maxStaple {
					// Too large for the message that carries it; the check alone.
					_, err = checkStaple(cert.OCSPStaple, []*x509.Certificate{parsed, root.cert}, now)
					err, _ = tlsError(err, new(resumption), "", now)
				} else {
					s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
					p := newPool(t, Options{Trust: Trust{Roots: root.pool()}})
					var c *Conn
					c, err = p.Host(Key{Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com"}).Dial(context.Background(), route(s), nil)
					if err == nil {
						c.Close()
					}
				}
				var e *Error
				switch {
				case tt.fault == NoFault && err != nil:
					t.Errorf("%s: %v", tls.VersionName(version), err)
				case tt.fault != NoFault && (!errors.As(err, &e) || e.Fault != tt.fault || e.Reason != policy.UpstreamTLS || !strings.Contains(e.Text, tt.text)):
					t.Errorf("%s: %v, want %s and %q", tls.VersionName(version), err, tt.fault, tt.text)
				}
			}
		})
	}
}

// One chain that the staple fits is enough: a cross-signed intermediate gives
// several.
func TestStapleOfOneChain(t *testing.T) {
	root, cross := newAuthority(t, "root"), newAuthority(t, "cross")
	cert, err := x509.ParseCertificate(root.issue(t, nil, nil).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	good := staple(t, root, cert, nil, nil)
	bad, right := []*x509.Certificate{cert, cross.cert}, []*x509.Certificate{cert, root.cert}
	if _, _, err := verifyChains([][]*x509.Certificate{bad, right}, good, time.Now()); err != nil {
		t.Error(err)
	}
	if _, _, err := verifyChains([][]*x509.Certificate{bad}, good, time.Now()); err == nil {
		t.Error("a staple of another authority was taken")
	}
	if _, _, err := verifyChains(nil, nil, time.Now()); err == nil {
		t.Error("no chain at all was taken")
	}
}

func FuzzStaple(f *testing.F) {
	root := newAuthority(f, "root")
	cert, err := x509.ParseCertificate(root.issue(f, nil, nil).Certificate[0])
	if err != nil {
		f.Fatal(err)
	}
	stranger := newAuthority(f, "stranger")
	f.Add(staple(f, stranger, cert, nil, nil))
	f.Add(staple(f, root, cert, nil, root.responder(f, nil)))
	f.Add([]byte{0x30, 3, 10, 1, 3})
	f.Add([]byte{})
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	chain := []*x509.Certificate{cert, {PublicKey: &other.PublicKey, PublicKeyAlgorithm: x509.ECDSA, Version: 3, BasicConstraintsValid: true, IsCA: true}}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Nobody signed for this issuer: whatever comes, it is no valid answer.
		if until, err := checkStaple(b, chain, time.Now()); err == nil && !until.IsZero() {
			t.Errorf("an answer until %v from %x", until, b)
		}
	})
}

func BenchmarkStaple(b *testing.B) {
	root := newAuthority(b, "root")
	cert, err := x509.ParseCertificate(root.issue(b, nil, nil).Certificate[0])
	if err != nil {
		b.Fatal(err)
	}
	good := staple(b, root, cert, nil, nil)
	chain := []*x509.Certificate{cert, root.cert}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := checkStaple(good, chain, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
