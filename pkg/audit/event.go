// Package audit holds the canonical events: what they contain, how they are
// redacted, and how they reach a sink without being lost. Every field name of
// an event lives here.
package audit

import (
	"net/netip"
	"time"
)

// A Kind says what an event is about.
type Kind uint8

// The kinds of events.
const (
	FlowOpen Kind = iota + 1
	FlowClose
	Exchange
	DNS
	Refused
	ForeignSocket
	TLSRejected
	Admin
	Lifecycle
)

// An Event is one line of the audit. Empty sections and zero fields are left
// out of the line.
type Event struct {
	// Time is when what the event tells of began.
	Time time.Time
	// ID is unique; Log.NextID makes it.
	ID   string
	Kind Kind
	// Verdict, Reason and Mode are the names of package policy (or, for Refused,
	// the kernel's reason).
	Verdict, Reason, Rule, Mode string
	Workload                    Workload
	Flow                        uint64
	Dst                         Destination
	TLS                         TLS
	HTTP                        HTTP
	DNS                         DNSQuery
	Upstream                    Upstream
	Traceparent                 string
	Duration                    Duration
	// Direction is "inbound" or empty.
	Direction string
	// Count is how many equal events this one stands for; 0 means one.
	Count    uint64
	Counters Counters
	// Message explains lifecycle, admin and refused events to a person.
	Message string
}

// Workload is the section `workload`.
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

// HTTP is the section `http`. Headers are recorded only where a rule asks.
type HTTP struct {
	Version, Method, Scheme, Host, Path, Query string
	Status                                     int
	RequestBytes, ResponseBytes                int64
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

// Duration is the section `duration`, written in seconds.
type Duration struct {
	Total, Upstream, Queued time.Duration
}

// Counters is the section `counters`: what the kernel counted on both legs.
type Counters struct {
	Workload, Upstream Leg
}

// A Leg is the kernel's totals of one TCP connection.
type Leg struct {
	BytesSent, BytesReceived, Segments, Retransmits uint64
	RTT                                             time.Duration
}
