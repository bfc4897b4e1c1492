package upstream

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Trust is what upstream certificates are verified against.
type Trust struct {
	// Roots are the accepted authorities; nil means the system's.
	Roots *x509.CertPool
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13; anything lower is
	// taken as TLS 1.2.
	MinVersion uint16

	// generation tells apart what was verified before and after SetTrust.
	generation uint64
}

// A PEMFile is one file of tls.upstream_ca_files.
type PEMFile struct {
	Name string
	Data []byte
}

// SystemRoots gives the host's authorities plus those of files. A file without
// a certificate, or with one that cannot be read, is an error: an operator who
// lists a file means it.
func SystemRoots(files ...PEMFile) (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificates: %w", err)
	}
	for _, f := range files {
		if err := addPEM(roots, f); err != nil {
			return nil, err
		}
	}
	return roots, nil
}

func addPEM(roots *x509.CertPool, f PEMFile) error {
	rest, found := f.Data, 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: certificate %d: %w", f.Name, found+1, err)
		}
		roots.AddCert(c)
		found++
	}
	if found == 0 {
		return fmt.Errorf("%s: no certificate in it", f.Name)
	}
	return nil
}

// clientConfig gives the configuration of one connection. ServerName makes the
// standard library verify chain, dates, usage and name; resumption.verify adds
// what it lets pass. There is no option that skips any of it.
func clientConfig(trust *Trust, key Key, r *resumption) *tls.Config {
	c := &tls.Config{
		ServerName:         key.Name,
		RootCAs:            trust.Roots,
		MinVersion:         max(trust.MinVersion, tls.VersionTLS12),
		ClientSessionCache: r,
		VerifyConnection:   r.verify,
	}
	if key.ALPN != "" {
		c.NextProtos = strings.Split(key.ALPN, ",")
	}
	c.GetClientCertificate = func(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		r.asked = true
		if key.Client == nil {
			return new(tls.Certificate), nil // none; most upstreams only ask
		}
		r.shown = true
		return key.Client.show(ask)
	}
	return c
}

var errNoChain = errors.New("no verified chain")

// weakChain refuses weak keys below the root: RSA below 2048 bits (NIST SP
// 800-57) and curves below P-256. A root is trusted as it is.
func weakChain(chain []*x509.Certificate) error {
	for i, c := range chain {
		if i > 0 && i == len(chain)-1 {
			break
		}
		if what := weakKey(c); what != "" {
			return &errWeakKey{describe(c), what}
		}
	}
	return nil
}

// weakKey says what is weak about the key of a certificate, "" for nothing.
func weakKey(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 {
			return fmt.Sprintf("RSA of %d bits, at least 2048 are needed", n)
		}
	case *ecdsa.PublicKey:
		if n := k.Curve.Params().BitSize; n < 256 {
			return fmt.Sprintf("a curve of %d bits, at least 256 are needed", n)
		}
	}
	return ""
}
