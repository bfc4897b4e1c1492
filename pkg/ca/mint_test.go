package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"
	"time"
)

// TestMintWritesWhatX509Writes: the part that is signed is, to the last byte,
// what x509.CreateCertificate makes of the same certificate, and the signature
// is good.
func TestMintWritesWhatX509Writes(t *testing.T) {
	_, leaves := newLeaves(t, 10)
	is := leaves.issuer.Load()
	now := time.Now()
	for _, name := range []string{
		"api.github.com", "localhost", "_srv.example.com", "a-b.example.com", "xn--bcher-kva.example", "1.example.com",
		strings.Repeat("a", 52) + ".example.com", strings.Repeat("a", 60) + ".example.com", strings.Repeat("abc.", 60) + "example.com",
		"192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7", "192.0.2.7 api.example.com", "2001:db8::1 " + strings.Repeat("abc.", 60) + "example.com",
	} {
		for range 5 { // serial numbers differ in length
			m, err := is.mint(name, now)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := x509.ParseCertificate(m.cert.Certificate[0])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			subj, err := subjectOf(name)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{
				SerialNumber:          got.SerialNumber,
				NotBefore:             now.Add(-backdate),
				NotAfter:              now.Add(LeafLifetime),
				BasicConstraintsValid: true,
				KeyUsage:              x509.KeyUsageDigitalSignature,
				ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
				SubjectKeyId:          keyID(&is.leaves.key.PublicKey),
			}
			common := name
			if subj.dns != "" {
				common = subj.dns
				template.DNSNames = []string{subj.dns}
			}
			if len(common) <= commonNameLimit {
				template.Subject = pkix.Name{CommonName: common}
			}
			if subj.ip != nil {
				template.IPAddresses = []net.IP{subj.ip}
			}
			der, err := x509.CreateCertificate(rand.Reader, template, is.cert, &is.leaves.key.PublicKey, is.key)
			if err != nil {
				t.Fatal(err)
			}
			want, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) {
				t.Errorf("%s:\n%x, want\n%x", name, got.RawTBSCertificate, want.RawTBSCertificate)
			}
			if err := got.CheckSignatureFrom(is.cert); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !m.notAfter.Equal(template.NotAfter) {
				t.Errorf("%s: kept until %v", name, m.notAfter)
			}
		}
	}
}

// TestMintAfter2049: RFC 5280 demands another form of time.
func TestMintAfter2049(t *testing.T) {
	_, leaves := newLeaves(t, 10)
	is := *leaves.issuer.Load()
	cert := *is.cert
	is.cert = &cert
	cert.NotAfter = time.Date(2051, 1, 1, 0, 0, 0, 0, time.UTC)
	m, err := is.mint("api.example.com", time.Date(2049, 12, 31, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	got, err := x509.ParseCertificate(m.cert.Certificate[0])
	if err != nil || got.NotBefore.Year() != 2049 || got.NotAfter.Year() != 2050 {
		t.Errorf("%+v, %v", got, err)
	}
}
