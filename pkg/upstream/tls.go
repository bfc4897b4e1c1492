package upstream

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Trust is what upstream certificates are verified against.
type Trust struct {
	// Roots are the accepted authorities; nil means the system's.
	Roots *x509.CertPool
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13; anything lower is
	// taken as TLS 1.2.
	MinVersion uint16
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

// clientConfig gives the configuration for one key. ServerName makes the
// standard library verify chain, dates, usage and name; verifyStrength adds
// what it lets pass. There is no option that skips any of it.
func clientConfig(trust Trust, key Key, sessions tls.ClientSessionCache) *tls.Config {
	var alpn []string
	if key.ALPN != "" {
		alpn = strings.Split(key.ALPN, ",")
	}
	return &tls.Config{
		ServerName:         key.Name,
		RootCAs:            trust.Roots,
		MinVersion:         max(trust.MinVersion, tls.VersionTLS12),
		NextProtos:         alpn,
		ClientSessionCache: sessions,
		VerifyConnection:   verifyStrength,
	}
}

// verifyStrength runs after the standard verification, also for resumed
// sessions, and refuses chains with weak keys below the root.
func verifyStrength(cs tls.ConnectionState) error {
	if len(cs.VerifiedChains) == 0 {
		// Unreachable while verification is on; refusing keeps it so.
		return fmt.Errorf("no verified chain")
	}
	var weak error
	for _, chain := range cs.VerifiedChains {
		if weak = weakChain(chain); weak == nil {
			return nil
		}
	}
	return weak
}

func weakChain(chain []*x509.Certificate) error {
	for i, c := range chain {
		if i > 0 && i == len(chain)-1 {
			break
		}
		switch k := c.PublicKey.(type) {
		case *rsa.PublicKey:
			if n := k.N.BitLen(); n < 2048 {
				return &errWeakKey{describe(c), fmt.Sprintf("RSA of %d bits, at least 2048 are needed", n)}
			}
		case *ecdsa.PublicKey:
			if n := k.Curve.Params().BitSize; n < 256 {
				return &errWeakKey{describe(c), fmt.Sprintf("a curve of %d bits, at least 256 are needed", n)}
			}
		}
	}
	return nil
}

// sessionCache keeps the sessions of two keys apart: a ticket would tell the
// upstream that two workloads are one host, and a session verified for one
// name must not be resumed for another.
type sessionCache struct {
	all    *lru.Cache[string, *tls.ClientSessionState]
	prefix string
}

func (s sessionCache) Get(key string) (*tls.ClientSessionState, bool) {
	return s.all.Get(s.prefix + key)
}

func (s sessionCache) Put(key string, cs *tls.ClientSessionState) {
	if cs == nil {
		s.all.Remove(s.prefix + key)
		return
	}
	s.all.Add(s.prefix+key, cs)
}

var _ tls.ClientSessionCache = sessionCache{}
