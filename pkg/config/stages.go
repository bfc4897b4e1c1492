package config

import (
	"slices"
	"time"
)

// Stages are what a rule does with the requests that it allows. What is absent
// is off. Of a rule they are its own or, key by key, those of `defaults`.
type Stages struct {
	// Auth is asked of the callers inside a workload; nil: nothing.
	Auth *Auth
	// RateLimits must all admit a request; so must Throttles.
	RateLimits []RateLimit
	Throttles  []Throttle
	SizeLimit  *SizeLimit
	// ContentFilters are applied in order.
	ContentFilters []ContentFilter
	// Secrets is what is done where a built-in detector finds one; "" is off.
	Secrets FilterAction
	Headers *Headers
	Cache   *RuleCache
	// Upstream names the entry of `upstreams` that takes the place of the
	// request's host; "" for none.
	Upstream string
	// Retry is nil where a request is tried once.
	Retry *Retry
	Log   *BodyLog
}

// NeedsRequest reports whether a stage looks at requests or responses, so that
// connections must be inspected.
func (s *Stages) NeedsRequest() bool {
	return s.Auth != nil || len(s.RateLimits) > 0 || len(s.Throttles) > 0 || s.SizeLimit != nil ||
		len(s.ContentFilters) > 0 || s.Secrets != "" || s.Headers != nil || s.Cache != nil ||
		s.Upstream != "" || s.Retry != nil || s.Log != nil
}

// Keys gives the keys of the stages that are there, in the order in which they act.
func (s *Stages) Keys() (keys []string) {
	for i, there := range [...]bool{
		s.Auth != nil, s.SizeLimit != nil, len(s.RateLimits) > 0, len(s.Throttles) > 0, len(s.ContentFilters) > 0,
		s.Secrets != "", s.Headers != nil, s.Cache != nil, s.Upstream != "", s.Retry != nil, s.Log != nil,
	} {
		if there {
			keys = append(keys, stageKeys[i])
		}
	}
	return keys
}

// Binding reports whether a stage must see a request before anything may pass:
// what is no HTTP is not allowed by such a rule, since it would go past the
// stage. What only looks, remembers or tries again binds nothing.
func (s *Stages) Binding() bool {
	binds := func(a FilterAction) bool { return a == FilterBlock || a == FilterRedact }
	return s.Auth != nil || len(s.RateLimits) > 0 || len(s.Throttles) > 0 || s.SizeLimit != nil ||
		slices.ContainsFunc(s.ContentFilters, func(f ContentFilter) bool { return binds(f.Action) }) ||
		binds(s.Secrets) || s.Headers != nil || s.Upstream != ""
}

// inherit takes over, key by key, the stages of `defaults` that a rule does not
// set itself, but those that it does without.
func (s *Stages) inherit(from *Stages, without []string) {
	takes := func(key string, set bool) bool { return !set && !slices.Contains(without, key) }
	if takes("auth", s.Auth != nil) {
		s.Auth = from.Auth
	}
	if takes("size_limit", s.SizeLimit != nil) {
		s.SizeLimit = from.SizeLimit
	}
	if takes("rate_limit", s.RateLimits != nil) {
		s.RateLimits = from.RateLimits
	}
	if takes("throttle", s.Throttles != nil) {
		s.Throttles = from.Throttles
	}
	if takes("content_filter", s.ContentFilters != nil) {
		s.ContentFilters = from.ContentFilters
	}
	if takes("secrets", s.Secrets != "") {
		s.Secrets = from.Secrets
	}
	if takes("headers", s.Headers != nil) {
		s.Headers = from.Headers
	}
	if takes("cache", s.Cache != nil) {
		s.Cache = from.Cache
	}
	if takes("upstream", s.Upstream != "") {
		s.Upstream = from.Upstream
	}
	if takes("retry", s.Retry != nil) {
		s.Retry = from.Retry
	}
	if takes("log", s.Log != nil) {
		s.Log = from.Log
	}
}

// Auth demands a field with a secret, which is not forwarded.
type Auth struct {
	// Header is in canonical MIME form.
	Header string
	// SecretFile holds the secret in one line.
	SecretFile string
}

// A CounterKey says what shares one counter.
type CounterKey struct {
	By CounterBy
	// Header is the field's name, in canonical MIME form, for ByHeader.
	Header string
}

// CounterBy is the kind of a CounterKey.
type CounterBy string

// The kinds of counters. Each is of one rule.
const (
	ByWorkload CounterBy = "workload"
	ByRule     CounterBy = "rule"
	ByHost     CounterBy = "host"
	// ByHeader is written header:NAME.
	ByHeader CounterBy = "header"
)

// A CounterPlace is where counters are kept.
type CounterPlace string

// The places of counters.
const (
	// LocalCounters belong to this host.
	LocalCounters CounterPlace = "local"
	// RedisCounters are shared by all that use the same `redis`.
	RedisCounters CounterPlace = "redis"
)

// A RateLimit bounds the requests in windows aligned to the UTC clock, of which
// all must have room; 0 is no bound.
type RateLimit struct {
	Second, Minute, Hour, Day int64
	By                        CounterKey
	Policy                    CounterPlace
	// HideClientHeaders leaves out the RateLimit fields of responses.
	HideClientHeaders bool
	// FaultTolerant goes on with local counters while Redis is away.
	FaultTolerant bool
}

// A Throttle paces requests as nginx's limit_req does.
type Throttle struct {
	// Requests in Per, which is a second or a minute, is the rate.
	Requests int64
	Per      time.Duration
	// Burst is how many may be ahead of the rate.
	Burst int64
	// Delay is how many of those are not delayed: Burst with nodelay, else 0
	// where nothing is set.
	Delay int64
	By    CounterKey
	// Status answers what is refused, 429 by default.
	Status int
}

// SizeLimit bounds bodies in bytes; 0 is no bound.
type SizeLimit struct {
	Request, Response Size
}

// A FilterAction is what is done where a filter finds something.
type FilterAction string

// The actions of filters.
const (
	// FilterBlock refuses the request or the response.
	FilterBlock FilterAction = "block"
	// FilterRedact replaces what was found.
	FilterRedact FilterAction = "redact"
	// FilterReport records it.
	FilterReport FilterAction = "report"
)

// A FilterSide is where a filter looks.
type FilterSide string

// The sides.
const (
	InRequest  FilterSide = "request"
	InResponse FilterSide = "response"
	InBoth     FilterSide = "both"
)

// A ContentFilter looks for a pattern in bodies, header fields and URLs.
type ContentFilter struct {
	Name string
	// Pattern is a regular expression of RE2 that compiles and does not match
	// the empty text.
	Pattern string
	In      FilterSide
	Action  FilterAction
	// Status answers a request that is blocked, 400 by default. A response that
	// is blocked gives 502.
	Status int
}

// Headers changes fields on the way to the upstream and back.
type Headers struct {
	Request, Response HeaderChanges
}

// HeaderChanges are made in this order: Remove, Set, Add.
type HeaderChanges struct {
	Set, Add []HeaderField
	// Remove are names in canonical MIME form.
	Remove []string
}

// A HeaderField is a field to write. Its value may hold the variables that
// docs/controls.md lists.
type HeaderField struct {
	// Name is in canonical MIME form.
	Name, Value string
}

// Cache is the memory of all caches.
type Cache struct {
	// MaxBytes bounds what is stored.
	MaxBytes Size
}

// RuleCache says what may be answered from memory (RFC 9111), narrowed by these
// keys as Kong's proxy-cache does.
type RuleCache struct {
	Methods  []string
	Statuses []int
	// ContentTypes are media types; one without parameters matches any.
	ContentTypes []string
	// TTL is the freshness of a response that states none; with Force of every
	// response that may be stored at all.
	TTL   time.Duration
	Force bool
	// MaxBody bounds the body of a response that is stored.
	MaxBody Size
}

// Retry says when a request is sent again.
type Retry struct {
	// Attempts counts all tries, 2 or more.
	Attempts int
	On       []RetryOn
	// Backoff is the mean wait before the second try; it doubles each time.
	Backoff time.Duration
}

// RetryOn is a failure after which a request may be sent again: RetryConnect or
// a status of three digits.
type RetryOn string

// RetryConnect is an upstream that could not be reached.
const RetryConnect RetryOn = "connect"

// BodyLog says what of bodies an audit event holds.
type BodyLog struct {
	RequestBody, ResponseBody bool
	// MaxBody bounds what is kept of each.
	MaxBody Size
	Redact  []Redaction
}

// A Redaction names something that no sink may see: one of the two is set.
type Redaction struct {
	// Path is a JSON path: $.a.b, $.list[*].c, $..name.
	Path string
	// Header is in canonical MIME form; written header:NAME.
	Header string
}

// Redis is where counters that hosts share are kept.
type Redis struct {
	// Address is host:port.
	Address                string
	Username, PasswordFile string
	TLS                    bool
	CAFile                 string
	DB                     int
	// Prefix begins each key.
	Prefix  string
	Timeout time.Duration
}
