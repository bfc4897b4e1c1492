package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

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
	Revoked
	BadStaple
	NoStaple
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
	Revoked:          "certificate_revoked",
	BadStaple:        "certificate_bad_staple",
	NoStaple:         "certificate_without_staple",
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
