package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"sallyport/pkg/policy"
)

// A Fault says what exactly is wrong with an upstream's certificate or
// handshake.
type Fault uint8

// The faults. NoFault stands for errors that are not about TLS.
const (
	NoFault Fault = iota
	Expired
	NotYetValid
	SelfSigned
	UnknownAuthority
	WrongName
	WeakKey
	WeakSignature
	BadCertificate
	NotTLS
	Handshake
	faultCount
)

var faultNames = [faultCount]string{
	NoFault:          "",
	Expired:          "certificate_expired",
	NotYetValid:      "certificate_not_yet_valid",
	SelfSigned:       "certificate_self_signed",
	UnknownAuthority: "certificate_unknown_authority",
	WrongName:        "certificate_wrong_name",
	WeakKey:          "certificate_weak_key",
	WeakSignature:    "certificate_weak_signature",
	BadCertificate:   "certificate_invalid",
	NotTLS:           "not_tls",
	Handshake:        "handshake_failed",
}

// String gives the fault's name; it panics for a value outside the set.
func (f Fault) String() string {
	if f >= faultCount {
		panic(fmt.Sprintf("upstream: Fault(%d) is not in the closed set", uint8(f)))
	}
	return faultNames[f]
}

// An Error is why no connection could be had. Reason is one of UpstreamTLS,
// UpstreamUnreachable, UpstreamTimeout.
type Error struct {
	Reason policy.Reason
	Fault  Fault
	// Addr is the address of the attempt that Err tells of.
	Addr netip.Addr
	// Attempts counts the TCP connections that were tried.
	Attempts int
	// Text says it to a person, in a few words.
	Text string
	Err  error
}

// Error gives the text.
func (e *Error) Error() string { return e.Text }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// dialError types an error of connecting.
func dialError(err error, addr netip.Addr, port uint16, attempts int) *Error {
	e := &Error{Reason: policy.UpstreamUnreachable, Addr: addr, Attempts: attempts, Err: err}
	at := netip.AddrPortFrom(addr, port)
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), isTimeout(err):
		e.Reason = policy.UpstreamTimeout
		e.Text = fmt.Sprintf("connecting to %s timed out", at)
	case errors.As(err, &errno):
		e.Text = fmt.Sprintf("connecting to %s: %s", at, errno.Error())
	default:
		e.Text = fmt.Sprintf("connecting to %s: %v", at, err)
	}
	if attempts > 1 {
		e.Text += fmt.Sprintf(" (%d addresses tried)", attempts)
	}
	return e
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

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
func tlsError(err error, name string, now time.Time) (e *Error, retry bool) {
	e = &Error{Reason: policy.UpstreamTLS, Fault: Handshake, Err: err}
	var (
		verify  *tls.CertificateVerificationError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		weak    *errWeakKey
		record  tls.RecordHeaderError
	)
	errors.As(err, &verify)
	switch {
	case errors.As(err, &weak):
		e.Fault = WeakKey
		e.Text = "the upstream's certificate is refused: " + weak.Error()
	case errors.As(err, &host):
		e.Fault = WrongName
		e.Text = fmt.Sprintf("the upstream's certificate is not for %s but for %s", name, namesOf(host.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && now.Before(invalid.Cert.NotBefore):
		e.Fault = NotYetValid
		e.Text = fmt.Sprintf("the upstream's certificate %s is not valid before %s", describe(invalid.Cert), invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		e.Fault = Expired
		e.Text = fmt.Sprintf("the upstream's certificate %s expired on %s", describe(invalid.Cert), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid):
		e.Fault = BadCertificate
		e.Text = "the upstream's certificate is invalid: " + strings.TrimPrefix(invalid.Error(), "x509: ")
	case errors.As(err, &unknown):
		e.Fault = UnknownAuthority
		e.Text = "the upstream's certificate is signed by an unknown authority; add its root to tls.upstream_ca_files"
		if verify != nil && len(verify.UnverifiedCertificates) > 0 {
			chain := verify.UnverifiedCertificates
			leaf := chain[0]
			switch {
			case weakSignature(chain):
				e.Fault = WeakSignature
				e.Text = fmt.Sprintf("the upstream's certificate is signed with %s, which is not accepted", leaf.SignatureAlgorithm)
			case len(chain) == 1 && bytes.Equal(leaf.RawIssuer, leaf.RawSubject):
				e.Fault = SelfSigned
				e.Text = fmt.Sprintf("the upstream's certificate %s is self-signed; add it to tls.upstream_ca_files to trust it", describe(leaf))
			default:
				e.Text = fmt.Sprintf("the upstream's certificate %s is signed by an unknown authority (%s); add its root to tls.upstream_ca_files", describe(leaf), leaf.Issuer.CommonName)
			}
		}
	case verify != nil:
		e.Fault = BadCertificate
		e.Text = "the upstream's certificate is invalid: " + verify.Err.Error()
	case errors.As(err, &record):
		e.Fault = NotTLS
		e.Text = "the upstream does not speak TLS"
		return e, true
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		e.Fault, e.Reason = NoFault, policy.UpstreamTimeout
		e.Text = "the TLS handshake with the upstream timed out"
		return e, true
	default:
		e.Text = "the TLS handshake with the upstream failed: " + strings.TrimPrefix(err.Error(), "remote error: ")
		return e, true
	}
	return e, false
}

// weakSignature reports whether some certificate below the root is signed with
// a hash that is broken. The standard library refuses those too, but as an
// unknown authority.
func weakSignature(chain []*x509.Certificate) bool {
	for _, c := range chain {
		switch c.SignatureAlgorithm {
		case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
			return true
		}
	}
	return false
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
	case len(names) == 0:
		return "no name at all"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

func describe(c *x509.Certificate) string { return short(c.Subject.String()) }

func short(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most]
	}
	return fmt.Sprintf("%q", s)
}
