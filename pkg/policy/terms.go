// Package policy turns a validated configuration into a compiled Policy and
// answers one question: may this workload do this? It is pure: no I/O, no
// clock, no logger, so a decision can be repeated, explained and tested.
package policy

import "fmt"

// A Verdict is what was decided for a flow or an exchange.
type Verdict uint8

// The verdicts. The zero value is Deny: what nobody decided is refused.
const (
	Deny Verdict = iota
	Allow
	// WouldDeny is an allow in observe mode of what enforce mode refuses.
	WouldDeny
)

var verdictNames = [...]string{Deny: "deny", Allow: "allow", WouldDeny: "would_deny"}

// String gives the verdict's name in audit events and metrics; it panics for a
// value outside the set.
func (v Verdict) String() string { return name(verdictNames[:], v) }

// Passes reports whether the flow or exchange goes on.
func (v Verdict) Passes() bool { return v == Allow || v == WouldDeny }

// A Handling is what becomes of an allowed connection.
type Handling uint8

// The handlings. The zero value sees the most.
const (
	// Inspect ends TLS and judges every request.
	Inspect Handling = iota
	// Tunnel forwards the bytes of the connection as they are.
	Tunnel
	// Direct never reaches the proxy: the kernel decides and counts.
	Direct
)

var handlingNames = [...]string{Inspect: "inspect", Tunnel: "tunnel", Direct: "direct"}

// String gives the handling's name in configuration, audit and metrics; it
// panics for a value outside the set.
func (h Handling) String() string { return name(handlingNames[:], h) }

// A Mode says whether a refusal is carried out or only recorded.
type Mode uint8

// The modes. The zero value is the closed one.
const (
	Enforce Mode = iota
	Observe
)

var modeNames = [...]string{Enforce: "enforce", Observe: "observe"}

// String gives the mode's name in configuration, audit and status; it panics
// for a value outside the set.
func (m Mode) String() string { return name(modeNames[:], m) }

// name looks an enumerated value up; an unknown one is a bug of ours and must
// never be printed as if it were a decision.
func name[T ~uint8](names []string, v T) string {
	if int(v) >= len(names) {
		panic(fmt.Sprintf("policy: %T(%d) is not in the closed set", v, uint8(v)))
	}
	return names[v]
}
