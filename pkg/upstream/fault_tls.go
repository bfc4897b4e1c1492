package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"sallyport/pkg/policy"
)

// errWeakKey is what verification adds to the standard library's: RSA below
// 2048 bits (NIST SP 800-57) and curves below P-256.
type errWeakKey struct {
	subject string
	what    string
}

func (e *errWeakKey) Error() string { return fmt.Sprintf("%s has a weak key: %s", e.subject, e.what) }

// tlsError types an error of the handshake with the upstream. retry reports
// whether another address could do better: a certificate fault is the same
// everywhere and must not be shopped around.
func tlsError(err error, r *resumption, name string, now time.Time) (e *Error, retry bool) {
	e = &Error{Reason: policy.UpstreamTLS, Err: err}
	e.Fault, e.Text = certificateFault(err, name, now)
	if e.Fault != NoFault {
		return e, false
	}
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		e.Fault = NotTLS
		e.Text = "the upstream does not speak TLS"
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		e.Reason = policy.UpstreamTimeout
		e.Text = "the TLS handshake with the upstream timed out"
	default:
		e.Fault = Handshake
		e.Text = handshakeText(err, r.asked, r.shown)
	}
	return e, true
}

// handshakeText says why an upstream broke off: in the handshake or, with TLS
// 1.3, right behind it. asked says that it wanted a certificate of ours, shown
// that it got one.
func handshakeText(err error, asked, shown bool) string {
	alert, ok := remoteAlert(err)
	switch {
	case !ok:
		return "the TLS handshake with the upstream failed: " + strings.TrimPrefix(err.Error(), "tls: ")
	case alert == "no application protocol":
		return "the upstream speaks none of the protocols that the client offers (ALPN)"
	case asked && !shown:
		return "the upstream asked for a client certificate and answered with the alert \"" + alert + "\": give the rule an upstream_tls with cert and key"
	case asked:
		return "the upstream refused the certificate of upstream_tls with the alert \"" + alert + "\""
	default:
		return "the TLS handshake with the upstream failed: it answered with the alert \"" + alert + "\""
	}
}

// remoteAlert gives the text of the TLS alert that an upstream sent, such as
// "certificate required". One of TLS 1.3 that judges our certificate comes only
// after the handshake, with the first read (RFC 8446 section 4.4.2.4).
func remoteAlert(err error) (string, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return "", false
	}
	// The standard library keeps the numbers to itself.
	return strings.TrimPrefix(op.Err.Error(), "tls: "), true
}

// Unwelcome says why an upstream of TLS 1.3 ended a connection whose handshake
// was over for us: it wants a certificate of ours, or another one. ok is false for
// every other error.
func Unwelcome(err error) (text string, ok bool) {
	switch alert, _ := remoteAlert(err); alert {
	case "certificate required":
		return handshakeText(err, true, false), true
	case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate",
		"unknown certificate authority", "access denied":
		// Whether one was shown is not known here any more.
		return "the upstream ended the connection with the alert \"" + alert + "\": it does not accept the certificate of upstream_tls, or the want of one", true
	default:
		return "", false
	}
}

// certificateFault says what is wrong with an upstream's certificate, NoFault
// if it is not that.
func certificateFault(err error, name string, now time.Time) (Fault, string) {
	var (
		verify  *tls.CertificateVerificationError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		weak    *errWeakKey
		staple  *errStaple
	)
	errors.As(err, &verify)
	switch {
	case errors.As(err, &staple):
		return staple.fault, "the upstream's certificate " + staple.Error()
	case errors.As(err, &weak):
		return WeakKey, "the upstream's certificate is refused: " + weak.Error()
	case errors.As(err, &host):
		return WrongName, fmt.Sprintf("the upstream's certificate is not for %s but for %s", name, namesOf(host.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return outOfTime(invalid.Cert, now)
	case errors.As(err, &invalid):
		return BadCertificate, "the upstream's certificate is invalid: " + strings.TrimPrefix(invalid.Error(), "x509: ")
	case errors.As(err, &unknown):
		if verify != nil && len(verify.UnverifiedCertificates) > 0 {
			return untrusted(verify.UnverifiedCertificates, unknown.Error(), now)
		}
		return UnknownAuthority, "the upstream's certificate is signed by an unknown authority; add its root to tls.upstream_ca_files"
	case verify != nil:
		return BadCertificate, "the upstream's certificate is invalid: " + verify.Err.Error()
	case err != nil && strings.Contains(err.Error(), "failed to parse certificate from server"):
		// The standard library gives no type to it.
		_, why, _ := strings.Cut(err.Error(), "failed to parse certificate from server: ")
		return BadCertificate, "the upstream's certificate cannot be read: " + strings.TrimPrefix(why, "x509: ")
	default:
		return NoFault, ""
	}
}

// outOfTime is the fault of a certificate that is not valid now.
func outOfTime(c *x509.Certificate, now time.Time) (Fault, string) {
	if now.Before(c.NotBefore) {
		return NotYetValid, fmt.Sprintf("the upstream's certificate %s is not valid before %s", describe(c), c.NotBefore.UTC().Format(time.RFC3339))
	}
	return Expired, fmt.Sprintf("the upstream's certificate %s expired on %s", describe(c), c.NotAfter.UTC().Format(time.RFC3339))
}

// untrusted finds out why no chain leads to a trusted root. The standard library
// has one error for all of it, with a hint in its text: what it met where an
// issuer was there and could not be used.
func untrusted(sent []*x509.Certificate, hint string, now time.Time) (Fault, string) {
	leaf := sent[0]
	if selfIssued(leaf) && leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
		return SelfSigned, fmt.Sprintf("the upstream's certificate %s is self-signed; add it to tls.upstream_ca_files to trust it", describe(leaf))
	}
	for i, c := range sent {
		if i > 0 && selfIssued(c) {
			// Nobody looks at a root's signature of itself, and the roots that we
			// trust are our own copies.
			continue
		}
		switch what := weakKey(c); {
		case weakSignature(c):
			return WeakSignature, fmt.Sprintf("the upstream's certificate %s is signed with %s, which is not accepted", describe(c), c.SignatureAlgorithm)
		case i > 0 && what != "" && strings.Contains(hint, "insecure"):
			return WeakKey, fmt.Sprintf("the upstream's certificate is refused: %s has a weak key: %s", describe(c), what)
		case i > 0 && (now.Before(c.NotBefore) || now.After(c.NotAfter)) && strings.Contains(hint, "expired or is not yet valid"):
			return outOfTime(c, now)
		}
	}
	last := sent[len(sent)-1]
	return UnknownAuthority, fmt.Sprintf("the upstream's certificate %s is signed by an unknown authority (%s); add its root to tls.upstream_ca_files, or have the upstream send the certificates between", describe(leaf), issuerOf(last))
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }

// weakSignature reports whether a certificate is signed with a hash that is
// broken. The standard library refuses those too, but as an unknown authority.
func weakSignature(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	default:
		return false
	}
}

// namesOf lists what a certificate is for. It is the upstream's text, so it is
// bounded and quoted.
func namesOf(c *x509.Certificate) string {
	const most = 5
	if c == nil {
		return "another name"
	}
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, short(n))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0 && c.Subject.CommonName != "":
		// RFC 9525 section 2: a common name is no identity.
		return "no name at all (its common name " + short(c.Subject.CommonName) + " does not count)"
	case len(names) == 0:
		return "no name at all"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

func describe(c *x509.Certificate) string { return short(c.Subject.String()) }

// issuerOf names who signed a certificate.
func issuerOf(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return short(c.Issuer.CommonName)
	}
	return short(c.Issuer.String())
}

func short(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most]
	}
	return fmt.Sprintf("%q", s)
}
