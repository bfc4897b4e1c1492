package upstream

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

const (
	// clockSkew forgives a responder whose clock runs before ours.
	clockSkew = 5 * time.Minute
	// openEnded is how long an OCSP response counts that states no nextUpdate.
	// RFC 5019 section 2.2.4 demands one, RFC 6960 section 4.2.2.1 does not.
	openEnded = 24 * time.Hour
	// maxStaple bounds a stapled response in bytes; those of public authorities
	// have 300 to 3,000.
	maxStaple = 64 << 10
)

// tlsFeature is the certificate extension by which an authority says that a
// certificate comes with a stapled response (RFC 7633 section 4.1).
var tlsFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// statusRequest is the TLS extension that stands for stapling (RFC 6066
// section 8).
const statusRequest = 5

// errStaple is what a stapled OCSP response, or the want of one, says against a
// certificate.
type errStaple struct {
	fault   Fault
	subject string
	what    string
}

func (e *errStaple) Error() string { return e.subject + " " + e.what }

// checkStaple judges what the upstream stapled for the leaf of a verified chain
// (RFC 6960 section 3.2). until is when the answer stops to count; the zero time
// where there is none.
//
// Without an answer that counts a certificate is good, unless it demands one
// itself: whoever holds a revoked key can leave the staple out as well, so
// refusing a late one would protect nobody. It is refused where the authority
// says so (revoked, or unknown to it) and where what was stapled cannot be
// trusted to be the authority's word at all: nobody knows what it hides.
func checkStaple(staple []byte, chain []*x509.Certificate, now time.Time) (until time.Time, err error) {
	leaf := chain[0]
	refuse := func(fault Fault, format string, args ...any) error {
		return &errStaple{fault, describe(leaf), fmt.Sprintf(format, args...)}
	}
	must, err := mustStaple(leaf)
	if err != nil {
		return until, refuse(BadCertificate, "has a TLS feature extension that cannot be read")
	}
	none := func(why string) error {
		if must {
			return refuse(NoStaple, "demands a stapled OCSP response, and %s", why)
		}
		return nil
	}
	switch {
	case len(staple) == 0:
		return until, none("the upstream sent none")
	case len(staple) > maxStaple:
		return until, refuse(BadStaple, "comes with an OCSP response over %d bytes", maxStaple)
	}
	resp, err := ocsp.ParseResponseForCert(staple, leaf, nil)
	var status ocsp.ResponseError
	if errors.As(err, &status) {
		// tryLater and the like: unsigned, and says nothing of the certificate.
		return until, none("the upstream's says " + status.Status.String())
	}
	if err == nil {
		err = checkResponder(resp, chain, now)
	}
	if err != nil {
		return until, refuse(BadStaple, "comes with an OCSP response that is refused: %v", err)
	}
	switch resp.Status {
	case ocsp.Revoked:
		// Also where the answer is old: what is revoked stays so.
		return until, refuse(Revoked, "was revoked on %s%s, says its authority's stapled OCSP response",
			resp.RevokedAt.UTC().Format(time.RFC3339), reasonText(resp.RevocationReason))
	case ocsp.Good:
	default:
		return until, refuse(Revoked, "is unknown to its authority, says the stapled OCSP response")
	}
	until = resp.NextUpdate
	if until.IsZero() {
		until = resp.ThisUpdate.Add(openEnded)
	}
	switch {
	case resp.ThisUpdate.After(now.Add(clockSkew)):
		return time.Time{}, none("the upstream's is not valid before " + resp.ThisUpdate.UTC().Format(time.RFC3339))
	case !now.Before(until):
		return time.Time{}, none("the upstream's expired on " + until.UTC().Format(time.RFC3339))
	}
	return until, nil
}

// checkResponder verifies who signed a response: the issuer of the certificate,
// or a responder that the issuer certified for that (RFC 6960 section 4.2.2.2).
// ocsp.ParseResponseForCert has verified the signature where the responder's
// certificate is in the response.
func checkResponder(resp *ocsp.Response, chain []*x509.Certificate, now time.Time) error {
	switch resp.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
		return fmt.Errorf("it is signed with %s", resp.SignatureAlgorithm)
	}
	issuer := chain[min(1, len(chain)-1)]
	delegate := resp.Certificate
	switch {
	case delegate == nil:
		if err := resp.CheckSignatureFrom(issuer); err != nil {
			return errors.New("its signature is not the issuer's")
		}
		return nil
	case delegate.Equal(issuer):
		return nil
	case delegate.CheckSignatureFrom(issuer) != nil:
		return errors.New("its responder's certificate is not signed by the issuer")
	case !slices.Contains(delegate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errors.New("its responder's certificate is not one for OCSP signing")
	case now.Before(delegate.NotBefore), now.After(delegate.NotAfter):
		return errors.New("its responder's certificate is expired or not yet valid")
	}
	return weakChain([]*x509.Certificate{delegate})
}

// mustStaple reads RFC 7633 section 4.1.
func mustStaple(leaf *x509.Certificate) (bool, error) {
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(tlsFeature) {
			continue
		}
		var features []int
		if rest, err := asn1.Unmarshal(ext.Value, &features); err != nil || len(rest) > 0 {
			return true, errors.New("unreadable")
		}
		return slices.Contains(features, statusRequest), nil
	}
	return false, nil
}

// reasonText names the reasons of RFC 5280 section 5.3.1 that say something.
func reasonText(reason int) string {
	switch reason {
	case ocsp.KeyCompromise:
		return " (key compromise)"
	case ocsp.CACompromise:
		return " (authority compromised)"
	case ocsp.AffiliationChanged:
		return " (affiliation changed)"
	case ocsp.Superseded:
		return " (superseded)"
	case ocsp.CessationOfOperation:
		return " (cessation of operation)"
	case ocsp.CertificateHold:
		return " (on hold)"
	case ocsp.PrivilegeWithdrawn:
		return " (privilege withdrawn)"
	default:
		return ""
	}
}
