package policy

// A Reason says why something was refused. The set is closed: audit events,
// the metric denied_total, the X-Sallyport-Reason header and the kernel's
// refusals use these names and no others.
type Reason uint8

// The reasons. NoReason stands for an allow.
const (
	NoReason Reason = iota
	MalformedRequest
	NoRule
	RuleDenied
	AddressDenied
	NameMismatch
	AmbiguousPath
	ResponseTooLarge
	UpstreamTLS
	UpstreamUnreachable
	UpstreamTimeout
	AuditUnavailable
	Overloaded
	// ProtocolDenied is a protocol that no decision covers.
	ProtocolDenied
	// ContentFilter is a request that a filter blocks, ResponseFilter a response.
	ContentFilter
	ResponseFilter
	// SecretFound is a message in which a detector found a secret.
	SecretFound
	AuthRequired
	AuthDenied
	RequestTooLarge
	RateLimited
	Throttled
	// LimiterUnavailable is a shared counter that cannot be reached.
	LimiterUnavailable
	NoHealthyTarget
	// FlowLost is an accepted connection whose origin is not known.
	FlowLost
	reasonCount
)

var reasonNames = [reasonCount]string{
	NoReason:            "",
	MalformedRequest:    "malformed_request",
	NoRule:              "no_rule",
	RuleDenied:          "rule_denied",
	AddressDenied:       "address_denied",
	NameMismatch:        "name_mismatch",
	AmbiguousPath:       "ambiguous_path",
	ResponseTooLarge:    "response_too_large",
	UpstreamTLS:         "upstream_tls",
	UpstreamUnreachable: "upstream_unreachable",
	UpstreamTimeout:     "upstream_timeout",
	AuditUnavailable:    "audit_unavailable",
	Overloaded:          "overloaded",
	ProtocolDenied:      "protocol_denied",
	ContentFilter:       "content_filter",
	ResponseFilter:      "response_filter",
	SecretFound:         "secret_found",
	AuthRequired:        "auth_required",
	AuthDenied:          "auth_denied",
	RequestTooLarge:     "request_too_large",
	RateLimited:         "rate_limited",
	Throttled:           "throttled",
	LimiterUnavailable:  "limiter_unavailable",
	NoHealthyTarget:     "no_healthy_target",
	FlowLost:            "flow_lost",
}

// String gives the reason's name; it panics for a value outside the set.
func (r Reason) String() string { return name(reasonNames[:], r) }

// Observable reports whether observe mode turns a refusal for this reason into
// would_deny. What has no decision is refused in every mode: of a path that can
// be read in two ways no rule can tell what it decides.
func (r Reason) Observable() bool {
	switch r {
	case NoRule, RuleDenied, AddressDenied, RateLimited, Throttled, RequestTooLarge, ResponseTooLarge,
		ContentFilter, ResponseFilter, SecretFound:
		return true
	default:
		return false
	}
}

// Status gives the HTTP status code with which a refusal for this reason is
// answered.
func (r Reason) Status() int {
	switch r {
	case MalformedRequest, ContentFilter:
		return 400
	case AuthRequired:
		return 401
	case RequestTooLarge:
		return 413
	case RateLimited, Throttled:
		return 429
	case UpstreamTLS, UpstreamUnreachable, ResponseTooLarge, ResponseFilter:
		return 502
	case AuditUnavailable, Overloaded, LimiterUnavailable, NoHealthyTarget:
		return 503
	case UpstreamTimeout:
		return 504
	default:
		return 403
	}
}

// Reasons gives every reason there is, without NoReason.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := NoReason + 1; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}
