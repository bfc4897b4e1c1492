package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"sallyport/pkg/audit"
)

// A made is a certificate under construction with its authority.
type made struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// root gives the internet's authority as one that can sign anything.
func (n *internet) root() *made { return &made{n.ca.Cert, n.ca.Key} }

// sign makes a certificate below by; a nil by makes it self-signed, a nil key a
// P-256 one.
func sign(t *testing.T, by *made, key crypto.Signer, template *x509.Certificate) *made {
	t.Helper()
	if key == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key = k
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if by == nil {
		by = &made{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &made{cert, key}
}

// site is the template of a server's certificate.
func site(name string, change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "site " + name},
		DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		c.DNSNames, c.IPAddresses = nil, []net.IP{ip}
	}
	if change != nil {
		change(c)
	}
	return c
}

// authorityBelow is the template of an intermediate.
func authorityBelow(change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "an intermediate"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if change != nil {
		change(c)
	}
	return c
}

// present is what a server sends: its certificate and those behind it.
func present(staple []byte, leaf *made, behind ...*made) *tls.Certificate {
	c := &tls.Certificate{Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key, OCSPStaple: staple}
	for _, m := range behind {
		c.Certificate = append(c.Certificate, m.cert.Raw)
	}
	return c
}

// put makes the internet present a certificate under a name.
func (n *internet) put(name string, c *tls.Certificate, addrs ...string) {
	if net.ParseIP(name) == nil {
		if len(addrs) == 0 {
			addrs = []string{originV4}
		}
		n.setName(name, addrs...)
	}
	n.ca.Put(name, c)
}

func rsaOf(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// answerOf signs an OCSP response for a certificate.
func answerOf(t *testing.T, issuer, leaf *made, status int) []byte {
	t.Helper()
	der, err := ocsp.CreateResponse(issuer.cert, issuer.cert, ocsp.Response{
		Status: status, SerialNumber: leaf.cert.SerialNumber, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
		RevokedAt: time.Now().Add(-time.Minute), RevocationReason: ocsp.KeyCompromise,
	}, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// answerEnd is what curl writes behind each answer, for answersOf.
const answerEnd = `\n=%{http_code}=\n`

// A curlAnswer is one of several answers that curl wrote.
type curlAnswer struct{ body, status string }

func answersOf(stdout string) (all []curlAnswer) {
	var body []string
	for line := range strings.SplitSeq(stdout, "\n") {
		if len(line) == 5 && line[0] == '=' && line[4] == '=' {
			all = append(all, curlAnswer{strings.TrimSpace(strings.Join(body, "\n")), line[1:4]})
			body = nil
			continue
		}
		body = append(body, line)
	}
	return all
}

// TestUpstreamCertificates: each thing that can be wrong with an upstream's
// certificate is a 502 that says exactly which, to the workload and in the audit,
// and what is right passes; by name, wildcard, IDNA name and address.
func TestUpstreamCertificates(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.net
	root := n.root()
	sha1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	must := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
	}
	stranger := sign(t, nil, nil, authorityBelow(func(c *x509.Certificate) { c.Subject.CommonName = "a stranger" }))
	good := sign(t, root, nil, authorityBelow(nil))
	old := sign(t, root, nil, authorityBelow(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	weak := sign(t, root, rsaOf(t, 1024), authorityBelow(nil))
	broken := sign(t, root, nil, authorityBelow(sha1))
	leaf := func(by *made, name string, change func(*x509.Certificate)) *made {
		return sign(t, by, nil, site(name, change))
	}
	revoked, stapled, unstapled := leaf(root, "revoked.example.com", nil), leaf(root, "stapled.example.com", must), leaf(root, "unstapled.example.com", must)
	forged := leaf(root, "forged.example.com", nil)

	type entry struct {
		url  string
		cert *tls.Certificate
		// want is what the refusal says, "" for 200.
		want string
	}
	var entries []entry
	add := func(name string, c *tls.Certificate, want string, addrs ...string) {
		n.put(name, c, addrs...)
		entries = append(entries, entry{"https://" + name + "/", c, want})
	}
	add("expired.example.com", present(nil, leaf(root, "expired.example.com", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), `"CN=site expired.example.com" expired on`)
	add("early.example.com", present(nil, leaf(root, "early.example.com", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })), "is not valid before")
	add("selfsigned.example.com", present(nil, leaf(nil, "selfsigned.example.com", nil)), "is self-signed")
	add("stranger.example.com", present(nil, leaf(stranger, "stranger.example.com", nil), stranger), `signed by an unknown authority ("a stranger")`)
	add("wrongname.example.com", present(nil, leaf(root, "another.example.com", nil)), `not for wrongname.example.com but for "another.example.com"`)
	add("revoked.example.com", present(answerOf(t, root, revoked, ocsp.Revoked), revoked), "was revoked on")
	add("unstapled.example.com", present(nil, unstapled), "demands a stapled OCSP response")
	add("stapled.example.com", present(answerOf(t, root, stapled, ocsp.Good), stapled), "")
	add("forged.example.com", present(answerOf(t, &made{root.cert, stranger.key}, forged, ocsp.Good), forged), "its signature is not the issuer's")
	add("rsa1024.example.com", present(nil, sign(t, root, rsaOf(t, 1024), site("rsa1024.example.com", nil))), "RSA of 1024 bits")
	add("rsa1024above.example.com", present(nil, leaf(weak, "rsa1024above.example.com", nil), weak), `"CN=an intermediate" has a weak key: RSA of 1024 bits`)
	add("rsa2048.example.com", present(nil, sign(t, root, rsaOf(t, 2048), site("rsa2048.example.com", nil))), "")
	add("sha1.example.com", present(nil, leaf(root, "sha1.example.com", sha1)), "is signed with ECDSA-SHA1")
	add("sha1above.example.com", present(nil, leaf(broken, "sha1above.example.com", nil), broken), `"CN=an intermediate" is signed with ECDSA-SHA1`)
	add("oldabove.example.com", present(nil, leaf(old, "oldabove.example.com", nil), old), `"CN=an intermediate" expired on`)
	add("above.example.com", present(nil, leaf(good, "above.example.com", nil), good), "")
	add("incomplete.example.com", present(nil, leaf(good, "incomplete.example.com", nil)), "signed by an unknown authority")
	// Names: a wildcard stands for one label at the left, IDNA names are ASCII.
	add("a.wild.example.com", present(nil, leaf(root, "*.wild.example.com", nil)), "")
	add("a.b.wild.example.com", present(nil, leaf(root, "*.wild.example.com", nil)), `but for "*.wild.example.com"`)
	add("wild.example.com", present(nil, leaf(root, "*.wild.example.com", nil)), `but for "*.wild.example.com"`)
	add("xn--bcher-kva.example", present(nil, leaf(root, "xn--bcher-kva.example", nil)), "")
	entries = append(entries, entry{"https://bücher.example/", nil, ""})
	// Addresses, with the certificate of our own side for them as well.
	add(originV4, present(nil, leaf(root, originV4, nil)), "")
	add(originV6, present(nil, leaf(root, originV6, nil)), "")
	entries[len(entries)-1].url = "https://[" + originV6 + "]/"
	add("203.0.113.11", present(nil, leaf(root, originV4, nil)), "not for 203.0.113.11 but for "+originV4)

	script := "for u in"
	for _, e := range entries {
		script += " '" + e.url + "'"
	}
	script += `; do curl -gsS --max-time 20 -w '` + answerEnd + `' "$u" 2>&1; done`
	policy := h.config(`default: allow
rules: [{name: all, match: {protocols: [tcp]}, action: allow}]`)
	r := h.run(h.command(h.exec(policy, "bash", "-c", script)...))
	answers := answersOf(r.stdout)
	if len(answers) != len(entries) {
		t.Fatalf("%d answers to %d questions: %v", len(answers), len(entries), r)
	}
	for i, e := range entries {
		body, status := answers[i].body, answers[i].status
		if e.want == "" {
			if status != "200" {
				t.Errorf("%s: %s %s", e.url, status, body)
			}
			continue
		}
		var refusal struct{ Error, Reason, Event string }
		if err := json.Unmarshal([]byte(body), &refusal); err != nil || status != "502" || refusal.Reason != "upstream_tls" || !strings.Contains(refusal.Error, e.want) {
			t.Errorf("%s: %s %s; want 502 upstream_tls with %q", e.url, status, body, e.want)
			continue
		}
		event := h.waitAudit("the refusal of "+e.url, func(a *audit.Event) bool { return a.ID == refusal.Event })
		if event.Verdict != "deny" || event.Reason != "upstream_tls" || event.Message != refusal.Error {
			t.Errorf("%s: audit %s %s %q, want what the workload was told", e.url, event.Verdict, event.Reason, event.Message)
		}
	}
	for _, s := range n.seen() {
		if !strings.Contains("stapled rsa2048 above a.wild xn--bcher-kva "+originV4+" ["+originV6+"]", strings.TrimSuffix(s.Host, ".example.com")) && s.Host != "xn--bcher-kva.example" {
			t.Errorf("%s was asked for %s", s.Host, s.Path)
		}
	}
}
