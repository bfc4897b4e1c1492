package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"
)

const (
	// IssuingLifetime is how long an issuing certificate is valid. It bounds
	// what a stolen worker key is good for.
	IssuingLifetime = 7 * 24 * time.Hour
	// renewAfter leaves four days in which a renewal may fail, and every leaf
	// of the old certificate ends before that one does.
	renewAfter = 3 * 24 * time.Hour
	// renewRetry is the pause after a renewal that failed.
	renewRetry = time.Minute
)

// Material is what the worker needs to serve leaves: no more than the keeper
// hands over, and again at each renewal. Both fields are PEM.
type Material struct {
	// Chain is the issuing certificate followed by what vouches for the root to
	// those who trust an earlier one only, and the root.
	Chain []byte `json:"chain"`
	// Key is the issuing certificate's key, PKCS#8.
	Key []byte `json:"key"`
}

// Issue makes a new issuing certificate with a new key, valid from a little
// before now. It cannot make further authorities (path length 0) and its leaves
// are good for servers only.
func (r *Root) Issue(now time.Time) (Material, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Material{}, fmt.Errorf("make issuing key: %w", err)
	}
	serial := newSerial()
	notAfter := now.Add(IssuingLifetime)
	if notAfter.After(r.cert.NotAfter) {
		notAfter = r.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"sallyport"}, CommonName: fmt.Sprintf("sallyport issuing %s %s", now.UTC().Format(time.DateOnly), tail(serial))},
		NotBefore:             now.Add(-2 * backdate), // earlier than any leaf's
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SubjectKeyId:          keyID(&key.PublicKey),
	}
	if template.NotBefore.Before(r.cert.NotBefore) {
		template.NotBefore = r.cert.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, &key.PublicKey, r.key)
	if err != nil {
		return Material{}, fmt.Errorf("sign issuing certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Material{}, fmt.Errorf("encode issuing key: %w", err)
	}
	chain := encodeCertificate(der)
	for _, c := range r.cross {
		chain = append(chain, encodeCertificate(c.Raw)...)
	}
	return Material{Chain: append(chain, encodeCertificate(r.cert.Raw)...), Key: keyPEM}, nil
}

// Renew hands new Material of the root in use to deliver well before the last one's end, until ctx
// does; it returns nil then. It does not deliver at once: the first Material is
// the caller's. What deliver refuses (and reports) is offered anew after a
// minute.
func Renew(ctx context.Context, inUse func() *Root, deliver func(Material) error) error {
	// Wall clock, asked every minute: a timer of three days does not count the
	// time that the host slept.
	last := time.Now().Round(0)
	tick := time.NewTicker(renewRetry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now().Round(0)
		if !renewalDue(last, now) {
			continue
		}
		material, err := inUse().Issue(now)
		if err == nil {
			err = deliver(material)
		}
		if err == nil {
			last = now
		}
	}
}

// renewalDue also answers true when the clock was set back behind the last
// renewal: that certificate may not be valid yet.
func renewalDue(last, now time.Time) bool {
	return now.Sub(last) >= renewAfter || now.Before(last.Add(-backdate))
}

// An issuer signs leaves. It is immutable.
type issuer struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	leaves *mint
	// above follow a leaf in a handshake: the issuing certificate and, after a
	// rotation, what leads from it to an earlier root.
	above [][]byte
}

// above gives all but what signed itself: a root need not be sent (RFC 8446
// §4.4.2).
func above(chain []*x509.Certificate) [][]byte {
	var out [][]byte
	for _, c := range chain {
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			out = append(out, c.Raw)
		}
	}
	return out
}

// newIssuer checks that the material belongs together, so that a mistake shows
// at the hand-over and not in the first handshake.
func newIssuer(m Material) (*issuer, error) {
	certs, err := parseAll(m.Chain)
	if err != nil {
		return nil, fmt.Errorf("issuing chain: %w", err)
	}
	if len(certs) == 0 {
		return nil, errors.New("issuing chain: no certificate")
	}
	key, err := parseKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("issuing key: %w", err)
	}
	cert := certs[0]
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("issuing key is not the key of the issuing certificate")
	}
	if !cert.IsCA {
		return nil, errors.New("issuing certificate is not a certificate authority")
	}
	for _, parent := range certs[1:] {
		if bytes.Equal(parent.RawSubject, cert.RawIssuer) {
			if err := cert.CheckSignatureFrom(parent); err != nil {
				return nil, fmt.Errorf("issuing chain: %w", err)
			}
			leaves, err := newMint(cert)
			if err != nil {
				return nil, err
			}
			return &issuer{cert: cert, key: key, leaves: leaves, above: above(certs)}, nil
		}
	}
	return nil, errors.New("issuing chain: the root is missing")
}
