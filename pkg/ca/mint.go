package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// The object identifiers of a leaf (RFC 5758 section 3.2, RFC 5280 appendix A).
var (
	oidECDSAWithSHA256  = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// commonNameLimit is ub-common-name (RFC 5280 appendix A.1).
const commonNameLimit = 64

// A mint makes leaves of one issuing certificate. They share a key, which is as
// old as the issuing one and lies beside it in memory: who has the one has both.
type mint struct {
	key *ecdsa.PrivateKey
	// What all leaves have in common, encoded.
	algorithm, publicKey []byte
	usage, keyIDs        []byte
}

// newMint prepares what does not depend on the name. issuing is the certificate
// that signs.
func newMint(issuing *x509.Certificate) (*mint, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key for leaves: %w", err)
	}
	m := &mint{key: key}
	if m.publicKey, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return nil, fmt.Errorf("encode key for leaves: %w", err)
	}
	sequence := func(f func(b *cryptobyte.Builder)) []byte {
		var b cryptobyte.Builder
		b.AddASN1(der.SEQUENCE, f)
		out, e := b.Bytes()
		if e != nil && err == nil {
			err = e
		}
		return out
	}
	m.algorithm = sequence(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidECDSAWithSHA256) })
	var b cryptobyte.Builder
	// digitalSignature is the first bit of seven that may be left out.
	extension(&b, oidKeyUsage, true, []byte{byte(der.BIT_STRING), 2, 7, 0x80})
	extension(&b, oidExtKeyUsage, false, sequence(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidServerAuth) }))
	extension(&b, oidBasicConstraints, true, sequence(func(*cryptobyte.Builder) {}))
	m.usage = b.BytesOrPanic()
	var own cryptobyte.Builder
	own.AddASN1OctetString(keyID(&key.PublicKey))
	var ids cryptobyte.Builder
	extension(&ids, oidSubjectKeyID, false, own.BytesOrPanic())
	extension(&ids, oidAuthorityKeyID, false, sequence(func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(issuing.SubjectKeyId) })
	}))
	m.keyIDs = ids.BytesOrPanic()
	return m, err
}

// extension appends one of RFC 5280 section 4.1.
func extension(b *cryptobyte.Builder, id asn1.ObjectIdentifier, critical bool, value []byte) {
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1OctetString(value)
	})
}

// mint signs a leaf. Its times lie within the issuer's: some verifiers (GnuTLS)
// look at nesting. It writes what x509.CreateCertificate would, which verifies
// what it has signed and costs three times as much.
func (is *issuer) mint(name string, now time.Time) (*minted, error) {
	subj, err := subjectOf(name)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter := now.Add(-backdate), now.Add(LeafLifetime)
	if notBefore.Before(is.cert.NotBefore) {
		notBefore = is.cert.NotBefore
	}
	if notAfter.After(is.cert.NotAfter) {
		notAfter = is.cert.NotAfter
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("issuing certificate expired at %s and was not renewed", is.cert.NotAfter.Format(time.RFC3339))
	}
	common := name
	if subj.dns != "" {
		common = subj.dns
	}
	tbs, err := is.toBeSigned(common, &subj, notBefore, notAfter)
	if err != nil {
		return nil, fmt.Errorf("encode certificate for %q: %w", name, err)
	}
	digest := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, is.key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %q: %w", name, err)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+len(is.leaves.algorithm)+16))
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(is.leaves.algorithm)
		b.AddASN1BitString(signature)
	})
	raw, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode certificate for %q: %w", name, err)
	}
	return &minted{
		cert:      tls.Certificate{Certificate: append([][]byte{raw}, is.above...), PrivateKey: is.leaves.key},
		notBefore: notBefore, notAfter: notAfter,
	}, nil
}

// toBeSigned encodes a TBSCertificate (RFC 5280 section 4.1); name is the common
// name, if it fits.
func (is *issuer) toBeSigned(name string, subj *subject, notBefore, notAfter time.Time) ([]byte, error) {
	m := is.leaves
	b := cryptobyte.NewBuilder(make([]byte, 0, 768))
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // version 3
		b.AddASN1BigInt(newSerial())
		b.AddBytes(m.algorithm)
		b.AddBytes(is.cert.RawSubject)
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, notBefore)
			addTime(b, notAfter)
		})
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			if len(name) <= commonNameLimit {
				addCommonName(b, name)
			}
		})
		b.AddBytes(m.publicKey)
		b.AddASN1(der.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(m.usage)
				b.AddBytes(m.keyIDs)
				// Critical where there is no subject (section 4.2.1.6).
				extension(b, oidSubjectAltName, len(name) > commonNameLimit, subj.alternativeName())
			})
		})
	})
	return b.Bytes()
}

// addCommonName appends a relative distinguished name: a PrintableString, which
// has no underscore, or else a UTF8String (section 4.1.2.4).
func addCommonName(b *cryptobyte.Builder, name string) {
	b.AddASN1(der.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidCommonName)
			b.AddASN1(stringTag(name), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
		})
	})
}

func stringTag(name string) der.Tag {
	for i := range len(name) {
		if name[i] == '_' {
			return der.UTF8String
		}
	}
	return der.PrintableString
}

// addTime: until 2049 a UTCTime (section 4.1.2.5).
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

// alternativeName is the value of the extension: one GeneralName for each.
func (s *subject) alternativeName() []byte {
	const dnsName, ipAddress = 2, 7
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		if s.dns != "" {
			b.AddASN1(der.Tag(dnsName).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.dns)) })
		}
		if s.ip != nil {
			b.AddASN1(der.Tag(ipAddress).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(s.ip) })
		}
	})
	return b.BytesOrPanic()
}
