// Package audit holds the canonical events: what they contain, how they are
// redacted, and how they reach a sink without being lost. Every field name of
// an event lives here (names.go).
//
// The way of an event: Log.Record redacts and encodes it in the caller's
// goroutine into a bounded queue and never waits; one writer (Log.Run) takes
// the queue every few milliseconds, chains the lines and appends them to a
// Sink; whoever follows (Log.Subscribe) gets a line after it was written. The
// files are made and rotated by the privileged process, package audit/file.
package audit

import (
	"net/netip"
	"time"
)

// An Event is one line of the audit. Empty sections and zero fields are left
// out of the line, except where zero says something (see each section).
type Event struct {
	// Time is when what the event tells of began; zero means now.
	Time time.Time
	// ID is unique. Empty: Record gives it one. Log.NextID makes one for whoever
	// must show it to the workload (refusals).
	ID   string
	Kind Kind
	// Verdict, Reason and Mode are the names of package policy (or, for Refused,
	// the kernel's reason).
	Verdict, Reason, Rule, Mode string
	Workload                    Workload
	// Flow is the cookie of the workload's socket; 0 where there is none.
	Flow        uint64
	Dst         Destination
	TLS         TLS
	HTTP        HTTP
	WebSocket   WebSocket
	DNS         DNSQuery
	Upstream    Upstream
	Traceparent string
	// Cache is how a cache served: hit, miss, bypass or refresh; "" without one.
	Cache    string
	Duration Duration
	// Direction is "inbound" or empty.
	Direction string
	// Count is how many equal events this one stands for; 0 means one.
	Count    uint64
	Counters Counters
	// Message explains lifecycle, admin and refused events to a person.
	Message string

	// Prev and Hash are the chain: Log writes them and a Reader fills them; they
	// are ignored by Record.
	Prev, Hash string
}

// Workload is the section `workload`. pid and uid are written together, as soon
// as PID is known: uid 0 means root, not "unknown".
type Workload struct {
	Name, Cgroup, Unit, Container string
	PID, UID                      uint32
	Exe                           string
}

// Destination is the section `dst`.
type Destination struct {
	IP   netip.Addr
	Port uint16
	Host string
}

// TLS is the section `tls`.
type TLS struct {
	SNI, ALPN, Version, Handling, UpstreamVersion string
}

// HTTP is the section `http`. request_bytes and response_bytes are written
// whenever there is a Method, zero too.
type HTTP struct {
	Version, Method, Scheme, Host, Path, Query string
	// Status is what the workload got; 0 where it got no answer.
	Status int
	// RequestBytes and ResponseBytes are bytes of body.
	RequestBytes, ResponseBytes int64
	// RequestHeaders and ResponseHeaders are recorded only where a rule asks.
	// They are written as one object: names in lower case, the values of a
	// repeated name joined by ", " (RFC 9110 §5.2), credentials redacted.
	RequestHeaders, ResponseHeaders []Header
	// RequestBody and ResponseBody are recorded only where a rule asks, decoded
	// and redacted by whoever recorded them.
	RequestBody, ResponseBody string
	// Truncated: some text of this section was longer than MaxText, there were
	// more than MaxHeaders headers, or a body is not whole.
	Truncated bool
}

// A Header is one field line.
type Header struct{ Name, Value string }

// WebSocket is the section `websocket`, written at the end of a WebSocket
// beside the bytes of both directions, which are those of HTTP.
type WebSocket struct {
	// MessagesSent and MessagesReceived are whole text and binary messages, as
	// the workload counts them; written together, zero too.
	MessagesSent, MessagesReceived uint64
	// CloseCode is that of the first Close frame (RFC 6455 section 7.4), 1005
	// where it had none and 1006 where there was no such frame; 0 where it could
	// not be told.
	CloseCode uint16
}

// DNSQuery is the section `dns`.
type DNSQuery struct {
	Name, Type string
	Answers    []string
	Rcode      string
}

// Upstream is the section `upstream`.
type Upstream struct {
	Target   string
	IP       netip.Addr
	Attempts int
}

// Duration is the section `duration`, written in seconds. Total is written
// whenever any of them is set.
type Duration struct {
	Total, Upstream, Queued time.Duration
}

// Counters is the section `counters`: what the kernel counted on both legs.
type Counters struct {
	Workload, Upstream Leg
}

// A Leg is the kernel's totals of one TCP connection, seen from the end that
// the leg is named after: sent by the workload, sent to the upstream. All its
// fields are written when any of them is set; RTT in seconds.
type Leg struct {
	BytesSent, BytesReceived, Segments, Retransmits uint64
	RTT                                             time.Duration
}
