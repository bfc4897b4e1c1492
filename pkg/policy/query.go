package policy

import (
	"net/netip"

	"sallyport/pkg/config"
)

// A Protocol is what is known of a connection's protocol.
type Protocol uint8

// The protocols. The zero value is a TCP connection that was not sniffed yet.
const (
	AnyTCP Protocol = iota
	// HTTP in clear, any version.
	HTTP
	// HTTPS is TLS whose ALPN is empty or names HTTP.
	HTTPS
	// TLS is any other TLS.
	TLS
	// TCP is what is none of the above.
	TCP
	UDP
)

var protocolNames = [...]string{AnyTCP: "tcp (not sniffed)", HTTP: "http", HTTPS: "https", TLS: "tls", TCP: "tcp", UDP: "udp"}

// String gives the protocol's name; it panics for a value outside the set.
func (p Protocol) String() string { return name(protocolNames[:], p) }

// A Query is one question. The caller may reuse it: nothing keeps it.
type Query struct {
	// Workload is the name of the workload.
	Workload string
	// Host is canonical (CanonicalHost), "" where no name is known.
	Host string
	// Addrs are the addresses that may be dialled; empty: not known yet.
	Addrs []netip.Addr
	Port  uint16
	// Protocol of the connection.
	Protocol Protocol
	// ByProxy says that Host is not resolved, because it can leave by an upstream
	// proxy or to targets only (Ways): whether a rule with cidrs matches is not
	// known then, so one that allows does not and one that denies does.
	ByProxy bool
	// Who is what conditions may ask of the workload beside its name; nil: nothing
	// is known.
	Who *Who
	// HTTP is the request; nil where there is none.
	HTTP *HTTPQuery
}

// Who is the thing behind a workload's name.
type Who struct {
	// Unit and Container are "" where the workload is none.
	Unit, Container, Cgroup string
	UID                     uint32
}

// An HTTPQuery is the head of a request.
type HTTPQuery struct {
	Method string
	// Path is the raw path as received, without the query.
	Path string
	// RawQuery is what follows the "?" as received.
	RawQuery string
	// Header looks fields up; nil means that there are none.
	Header HeaderFields
}

// HeaderFields give the values of header fields without allocating.
type HeaderFields interface {
	// HeaderValue gives the i-th value, from 0, of the field of that name in
	// any case; false when there are fewer.
	HeaderValue(name string, i int) (string, bool)
	// Fields walks all of them in order.
	Fields(yield func(name, value string) bool)
}

// A Decision is the answer to a Query.
type Decision struct {
	Verdict Verdict
	// Reason is NoReason for Allow.
	Reason Reason
	// Rule is the name of the rule that decided; "" for the file's default.
	Rule string
	// Index is the rule's place in the configuration, counted from 1; 0 where no
	// rule decided.
	Index int
	// Mode that held: of the rule, else of the workload, else of the file.
	Mode     Mode
	Handling Handling
	// Path is what must be forwarded in place of the request's path: what was
	// matched. It is the path as received where no rule looked at it.
	Path string
	// Timeouts are the file's with those of the rule in their place.
	Timeouts config.Timeouts
	// Proxy is the upstream proxy by which the connection leaves, told the name;
	// nil: it goes to an address. Of an address that was dialled as such Permits
	// is asked all the same.
	Proxy *config.UpstreamProxy
	// Upstream names the targets that stand in for the host, "" for none. The
	// addresses of the host say nothing then: Permits is asked of the target's.
	Upstream string
	// Certificate is shown to an upstream that asks for one; nil: none.
	Certificate *config.UpstreamTLS
	// Ways is set by DecideName.
	Ways Ways
	// Unresolved says that a rule with cidrs was looked at while no address was
	// known: with one the decision may be another.
	Unresolved bool

	rule   *rule
	policy *Policy
	// why says what makes the path ambiguous, or what was wrong with a condition.
	why string
}

// Refuse gives the decision that d becomes when something that was found out
// later speaks against it: a refusal or, in observe mode and for a reason that
// observing covers, a would_deny.
func (d Decision) Refuse(reason Reason) Decision {
	d.Reason = reason
	if d.Mode == Observe && reason.Observable() {
		d.Verdict = WouldDeny
	} else {
		d.Verdict = Deny
	}
	return d
}

// Permits reports whether the rule that decided lets this address be dialled:
// it lies in the rule's cidrs, if there are any, and in no address class that
// the rule does not exempt. own reports the addresses of the host itself; nil
// means that they are not known, and then nothing is permitted. In observe mode
// the caller records d.Refuse(AddressDenied) and may go on. It does not
// allocate.
func (d *Decision) Permits(addr netip.Addr, own func(netip.Addr) bool) bool {
	if !d.Verdict.Passes() || d.rule == nil {
		return false
	}
	if d.rule.allow && len(d.rule.cidrs) > 0 && !d.rule.hasAddress(addr.Unmap()) {
		return false
	}
	ok, _ := d.rule.exempt.Permit(addr, own)
	return ok
}

// A ConnAction is what becomes of a connection.
type ConnAction uint8

// The actions. The zero value is Refuse.
const (
	Refuse ConnAction = iota
	// InspectConn means that each request is judged by Decide.
	InspectConn
	// TunnelConn means that the bytes are forwarded as they are.
	TunnelConn
)

// A ConnDecision is the answer for a connection.
type ConnDecision struct {
	Action ConnAction
	// Decision is that of the rule that decided the connection. Where requests
	// must be seen first it names no rule.
	Decision
	// before says that a rule before it could match some request.
	before bool
}
