package exchange

import (
	"net/netip"
	"sync/atomic"
	"time"

	"sallyport/pkg/policy"
)

// An Exchange is one request, its response, and what stages remember between
// the two. It is reused.
type Exchange struct {
	Request  Request
	Response Response
	// Subject is filled when a rule has let the request pass.
	Subject Subject
	// Record is what stages add to the audit event.
	Record Record

	answered  bool
	reached   int
	notes     []note
	objection atomic.Pointer[Refusal]
}

// A Subject is who asks for what, as policy judged it.
type Subject struct {
	// Workload is the workload's name, Rule the rule's.
	Workload, Rule string
	// Scheme is "http" or "https"; Host is canonical.
	Scheme, Host string
	Port         uint16
	// Client is the workload's end of the connection.
	Client netip.Addr
	// Method as judged: that of an extended CONNECT is GET.
	Method string
	// Observe says that refusals which may be observed are noted and not carried
	// out, and that nothing is changed or delayed.
	Observe bool
	// Time is when the request had been read and judged.
	Time time.Time
}

// A Record is what stages add to the audit event of their exchange.
type Record struct {
	// Cache is how the cache served the request.
	Cache CacheStatus
	// Queued is how long the request was held back.
	Queued time.Duration
	// Message joins what was found and let pass.
	Message string
	// RequestBody and ResponseBody are for the audit, redacted. Truncated says
	// that one of them is not whole.
	RequestBody, ResponseBody []byte
	Truncated                 bool
	// Path and Query take the place of the request's in the audit where they are
	// not "": a stage found in them what no sink may see.
	Path, Query string
	// RequestHeaders and ResponseHeaders are for the audit too, redacted.
	RequestHeaders, ResponseHeaders []Field
}

// RedactURL sets Path and Query, unless they are set, to what redact makes of
// those of the request where it finds something. It appends p to dst.
func (r *Record) RedactURL(req *Request, redact func(dst, p []byte) []byte) {
	var room [512]byte
	for _, f := range [...]struct {
		to   *string
		text string
	}{{&r.Path, req.Path}, {&r.Query, req.Query}} {
		if *f.to != "" || f.text == "" {
			continue
		}
		if clean := redact(room[:0], append(make([]byte, 0, 512), f.text...)); string(clean) != f.text {
			*f.to = string(clean)
		}
	}
}

// A CacheStatus is how a cache served a request.
type CacheStatus uint8

// The ways of a cache. The zero value is that of a rule without one.
const (
	NoCache CacheStatus = iota
	// CacheHit is an answer from memory.
	CacheHit
	// CacheMiss is a request that went upstream because nothing was stored.
	CacheMiss
	// CacheBypass is a request that the cache does not answer.
	CacheBypass
	// CacheRefresh is an answer from memory that the upstream has confirmed or
	// replaced.
	CacheRefresh
	// CacheStatuses counts the values.
	CacheStatuses
)

var cacheStatusNames = [CacheStatuses]string{"", "Hit", "Miss", "Bypass", "Refresh"}

// String gives the status as X-Cache-Status tells it, "" for NoCache; it panics
// for a value outside the set.
func (s CacheStatus) String() string { return cacheStatusNames[s] }

type note struct{ key, value any }

// Reset empties the exchange for the next one.
func (x *Exchange) Reset() {
	x.Request.Reset()
	x.Response.Reset()
	x.Subject, x.Record = Subject{}, Record{}
	x.answered, x.reached = false, 0
	clear(x.notes)
	x.notes = x.notes[:0]
	x.objection.Store(nil)
}

// Answer says that a stage has filled Response itself: later request sides do
// not run and the upstream is not contacted.
func (x *Exchange) Answer() {
	x.answered = true
	x.Response.Local = true
}

// Answered reports whether a stage filled the response.
func (x *Exchange) Answered() bool { return x.answered }

// Object gives what becomes of a refusal (nil: of none) here: where the
// exchange is only observed and the reason may be, the first one is noted and
// nil given, else the refusal itself. Bodies of stages call it while they are
// read, from any goroutine.
func (x *Exchange) Object(r *Refusal) *Refusal {
	if r == nil || !x.Subject.Observe || !r.Reason.Observable() {
		return r
	}
	x.objection.CompareAndSwap(nil, r)
	return nil
}

// Objection gives the refusal that was noted and not carried out, nil for none.
func (x *Exchange) Objection() *Refusal { return x.objection.Load() }

// Refuse gives a refusal in the name of the exchange's rule.
func (x *Exchange) Refuse(reason policy.Reason, message string) *Refusal {
	return &Refusal{Reason: reason, Rule: x.Subject.Rule, Message: message}
}

// Keep remembers a value under the key, usually the stage itself, until Reset.
func (x *Exchange) Keep(key, value any) {
	for i := range x.notes {
		if x.notes[i].key == key {
			x.notes[i].value = value
			return
		}
	}
	x.notes = append(x.notes, note{key, value})
}

// Kept gives what was remembered under the key, nil without it.
func (x *Exchange) Kept(key any) any {
	for i := range x.notes {
		if x.notes[i].key == key {
			return x.notes[i].value
		}
	}
	return nil
}
