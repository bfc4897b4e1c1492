package upstream

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"time"
)

// A ClientCertificate is what we show to an upstream that asks who we are
// (upstream_tls). Two that are not the same pointer never share a connection.
type ClientCertificate struct {
	cert tls.Certificate
	// fingerprint is of certificates and key.
	fingerprint string
}

// ParseClientCertificate reads a certificate, with its intermediates behind it,
// and its key, both PEM. It is an error if they do not belong together or the
// certificate has expired: every connection would fail.
func ParseClientCertificate(cert, key PEMFile) (*ClientCertificate, error) {
	pair, err := tls.X509KeyPair(cert.Data, key.Data)
	if err != nil {
		return nil, fmt.Errorf("%s with key %s: %w", cert.Name, key.Name, err)
	}
	if until := pair.Leaf.NotAfter; time.Now().After(until) {
		return nil, fmt.Errorf("%s: the certificate expired on %s", cert.Name, until.UTC().Format(time.RFC3339))
	}
	sum := sha256.New()
	for _, der := range pair.Certificate {
		sum.Write(der)
	}
	sum.Write(key.Data)
	return &ClientCertificate{pair, hex.EncodeToString(sum.Sum(nil))}, nil
}

// Fingerprint tells certificates apart by their content: a file that is read
// again unchanged gives the same one.
func (c *ClientCertificate) Fingerprint() string { return c.fingerprint }

// show answers an upstream's CertificateRequest. The certificate is given
// whatever authorities the upstream lists: the operator named it for this rule,
// and lists are often wrong. Only the algorithms must fit.
func (c *ClientCertificate) show(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	plain := *ask
	plain.AcceptableCAs = nil
	if err := plain.SupportsCertificate(&c.cert); err != nil {
		return nil, fmt.Errorf("the upstream does not take the certificate of upstream_tls: %w", err)
	}
	return &c.cert, nil
}
