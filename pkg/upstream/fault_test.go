package upstream

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/policy"
)

// intermediate gives an authority below a; change may alter its certificate.
func (a *authority) intermediate(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) *authority {
	t.Helper()
	c := a.issue(t, key, func(c *x509.Certificate) {
		*c = x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "the intermediate"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
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

// below puts the certificates that a server sends behind its own.
func below(c tls.Certificate, others ...*authority) tls.Certificate {
	for _, o := range others {
		c.Certificate = append(c.Certificate, o.cert.Raw)
	}
	return c
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestChainFaults covers what is wrong above the leaf, and what the standard
// library has one name for though it is not one thing.
func TestChainFaults(t *testing.T) {
	root, stranger := newAuthority(t, "the root"), newAuthority(t, "a stranger")
	sha1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	good := root.intermediate(t, nil, nil)
	expired := root.intermediate(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	early := root.intermediate(t, nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	weak := root.intermediate(t, rsaKey(t, 1024), nil)
	broken := root.intermediate(t, nil, sha1)
	weakRoot := newAuthority(t, "a root of the nineties")
	weakRoot = weakRoot.selfSigned(t, rsaKey(t, 1024))
	noAuthority := root.intermediate(t, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	narrow := root.intermediate(t, nil, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"other.example"} })
	for _, tt := range []struct {
		name  string
		cert  tls.Certificate
		fault Fault
		text  string
	}{
		{"good", below(good.issue(t, nil, nil), good), NoFault, ""},
		{"good, with the root and something unrelated", below(good.issue(t, nil, nil), good, root, stranger), NoFault, ""},
		{"below a weak root that is trusted", below(weakRoot.issue(t, nil, nil), weakRoot), NoFault, ""},
		{"intermediate is missing", good.issue(t, nil, nil), UnknownAuthority, `("the intermediate")`},
		{"intermediate expired", below(expired.issue(t, nil, nil), expired), Expired, `"CN=the intermediate" expired on`},
		{"intermediate not yet valid", below(early.issue(t, nil, nil), early), NotYetValid, `"CN=the intermediate" is not valid before`},
		{"intermediate with a weak key", below(weak.issue(t, nil, nil), weak), WeakKey, `"CN=the intermediate" has a weak key: RSA of 1024 bits`},
		{"intermediate signed with SHA-1", below(broken.issue(t, nil, nil), broken), WeakSignature, `"CN=the intermediate" is signed with ECDSA-SHA1`},
		{"leaf signed with SHA-1", root.issue(t, nil, sha1), WeakSignature, `"CN=leaf" is signed with ECDSA-SHA1`},
		{"intermediate that is no authority", below(noAuthority.issue(t, nil, nil), noAuthority), UnknownAuthority, "unknown authority"},
		{"intermediate for other names", below(narrow.issue(t, nil, nil), narrow), BadCertificate, "not authorized"},
		{"a private root, sent along", below(stranger.issue(t, nil, nil), stranger), UnknownAuthority, `"a stranger"`},
		{"self-signed with SHA-1", (*authority)(nil).issue(t, nil, sha1), SelfSigned, "is self-signed"},
		{"self-signed, with something behind it", below((*authority)(nil).issue(t, nil, nil), stranger), SelfSigned, "is self-signed"},
		{"common name only", root.issue(t, nil, func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses, c.Subject.CommonName = nil, nil, "api.example.com"
		}), WrongName, `no name at all (its common name "api.example.com" does not count)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			roots := root.pool()
			roots.AddCert(weakRoot.cert)
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{tt.cert}, MaxVersion: version})
				p := newPool(t, Options{Trust: Trust{Roots: roots}})
				c, err := p.Host(Key{Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com"}).Dial(context.Background(), route(s), nil)
				if err == nil {
					c.Close()
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

// selfSigned gives the authority anew with another key.
func (a *authority) selfSigned(t testing.TB, key crypto.Signer) *authority {
	t.Helper()
	template := *a.cert
	template.SignatureAlgorithm, template.PublicKey = 0, nil
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// TestNames covers RFC 9525 section 6.3 as far as names that we are asked for
// go: wildcards stand for one whole label at the left, IDNA names are compared
// in their ASCII form, and an address is never matched by a name.
func TestNames(t *testing.T) {
	ca := newAuthority(t, "root")
	for _, tt := range []struct {
		cert, name string
		good       bool
	}{
		{"api.example.com", "api.example.com", true},
		{"API.Example.COM", "api.example.com", true},
		{"*.example.com", "api.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.b.example.com", false},
		{"*.b.example.com", "a.b.example.com", true},
		{"a*.example.com", "api.example.com", false},
		{"*", "localhost", false},
		{"api.*.com", "api.example.com", false},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", true},
		{"*.xn--bcher-kva.example", "www.xn--bcher-kva.example", true},
		{"xn--*.example", "xn--bcher-kva.example", false},
		{"under_score.example.com", "under_score.example.com", true},
		{"127.0.0.1", "127.0.0.1", true},
		{"*.0.0.1", "127.0.0.1", false},
		{"::1", "127.0.0.1", false},
		{"::ffff:127.0.0.1", "127.0.0.1", true},
		{"2001:db8::1", "2001:db8::1", true},
		{"2001:db8::1", "2001:db8::2", false},
	} {
		t.Run(tt.cert+" for "+tt.name, func(t *testing.T) {
			cert := ca.issue(t, nil, named(tt.cert))
			s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
			p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
			c, err := p.Host(Key{Host: tt.name, Port: s.addr.Port(), Name: tt.name}).Dial(context.Background(), route(s), nil)
			if err == nil {
				c.Close()
			}
			var e *Error
			if tt.good && err != nil || !tt.good && (!errors.As(err, &e) || e.Fault != WrongName) {
				t.Errorf("%v, want good: %v", err, tt.good)
			}
		})
	}
}
