// Package admin is how a person or a script asks the running sallyport: a JSON
// API over a unix socket with its client, and the TCP listener that serves the
// metrics page, health and readiness and nothing else. What is asked comes from
// a Backend; who may ask is decided by the kernel's word about the peer.
//
// The socket itself is made by the privileged process, package admin/socket;
// what a person sees on the terminal is package admin/show.
package admin

import (
	"context"
	"net/netip"
	"time"

	"sallyport/pkg/audit"
)

// A Backend answers. Its methods may be called at the same time.
type Backend interface {
	Status(context.Context) (*Status, error)
	// Flows lists the flows that are open, in the order in which they opened.
	Flows(context.Context) ([]Flow, error)
	// Follow begins to follow the audit, with up to recent of its newest lines
	// first. It is audit.Log.Subscribe.
	Follow(recent int) (*audit.Subscription, error)
	// Reload reads, checks and applies the configuration. Mistakes in it are not
	// an error but in Reloaded.Errors; nothing has changed then.
	Reload(context.Context) (*Reloaded, error)
	// Explain decides a made-up request. A request that cannot be judged (no
	// URL) gives an error that wraps ErrBadRequest.
	Explain(context.Context, *ExplainRequest) (*Explanation, error)
	// PurgeCache drops what a rule's cache has stored, "" for every rule. A rule
	// that there is not gives an error that wraps ErrBadRequest.
	PurgeCache(ctx context.Context, rule string) (*Purged, error)
	// Ready is nil when guard, listeners, BPF and self-probe are as they must be;
	// else it says what is not. Cheap: it is asked often.
	Ready() error
}

// Status is the answer of `status --json`.
type Status struct {
	Ready bool `json:"ready"`
	// Mode is that of the file: enforce or observe.
	Mode string `json:"mode"`
	// EnforcementActive is what the last self-probe found.
	EnforcementActive bool `json:"enforcement_active"`
	// Locks are how many locks are to be in force, each of which keeps the gate
	// shut by itself: 2, or 1 where nftables captures (problems say so).
	Locks     int        `json:"locks"`
	Config    Config     `json:"config"`
	Workloads []Workload `json:"workloads"`
	// Flows is the number of open flows.
	Flows int `json:"flows"`
	// Maps tells how full each bounded thing is, by name.
	Maps map[string]Fill `json:"maps"`
	// Pinned are the names whose connections are tunnelled because a client
	// rejected our certificate (tls.on_pinned: tunnel).
	Pinned []Pinned `json:"pinned"`
	// Problems are in the form "what: why; what to do".
	Problems []string `json:"problems"`
}

// Pinned is a name whose connections pass unseen until a time.
type Pinned struct {
	Workload string    `json:"workload"`
	Host     string    `json:"host"`
	Until    time.Time `json:"until"`
}

// Config is the configuration in force.
type Config struct {
	Hash string `json:"hash"`
	// Error is why the last reload changed nothing; empty when it succeeded.
	Error string `json:"error"`
}

// Workload is one line of the status.
type Workload struct {
	Name      string `json:"name"`
	Cgroup    string `json:"cgroup"`
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
	Command   string `json:"command,omitempty"`
	Mode      string `json:"mode,omitempty"`
	// Flows is the number of its open flows.
	Flows int `json:"flows"`
	// Note is what a person must know of it, as "root: not confined".
	Note string `json:"note,omitempty"`
}

// Fill is how full a bounded thing is.
type Fill struct {
	Entries  uint64 `json:"entries"`
	Capacity uint64 `json:"capacity"`
}

// The states of a Flow.
const (
	FlowOpen   = "open"
	FlowClosed = "closed"
)

// Flow is one line of `flows`. Names are those of the audit.
type Flow struct {
	ID    uint64 `json:"flow"`
	State string `json:"state"`
	// Opened is when it began, Duration (seconds) how long it has been open.
	Opened   time.Time    `json:"time"`
	Duration float64      `json:"duration"`
	Workload FlowWorkload `json:"workload"`
	Dst      FlowDst      `json:"dst"`
	Handling string       `json:"handling,omitempty"`
	Verdict  string       `json:"verdict"`
	Reason   string       `json:"reason,omitempty"`
	Rule     string       `json:"rule,omitempty"`
	// Direction is "inbound" or empty.
	Direction string   `json:"direction,omitempty"`
	Counters  Counters `json:"counters"`
}

// FlowWorkload is who made a flow.
type FlowWorkload struct {
	Name   string `json:"name"`
	Cgroup string `json:"cgroup,omitempty"`
	PID    uint32 `json:"pid,omitempty"`
	UID    uint32 `json:"uid"`
	Exe    string `json:"exe,omitempty"`
}

// FlowDst is where a flow goes.
type FlowDst struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port"`
	Host string     `json:"host,omitempty"`
}

// Counters are the kernel's figures of both legs; a leg that there is not is
// nil.
type Counters struct {
	Workload *Leg `json:"workload,omitempty"`
	Upstream *Leg `json:"upstream,omitempty"`
}

// Leg is one leg of a flow.
type Leg struct {
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	Segments      uint64 `json:"segments"`
	Retransmits   uint64 `json:"retransmits"`
	// RTT in seconds.
	RTT float64 `json:"rtt"`
}

// Reloaded is the answer of `reload`.
type Reloaded struct {
	// Hash is of the configuration now in force, new or not.
	Hash string `json:"hash"`
	// Errors are the mistakes, each as FILE:LINE:COL: message.
	Errors []string `json:"errors"`
}

// ExplainRequest is a request to be judged as if W made it.
type ExplainRequest struct {
	Workload string `json:"workload"`
	URL      string `json:"url"`
	// Method is GET where it is empty.
	Method  string   `json:"method,omitempty"`
	Headers []Header `json:"headers,omitempty"`
}

// Header is one field line.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Explanation is a decision with the way to it.
type Explanation struct {
	Verdict  string `json:"verdict"`
	Reason   string `json:"reason,omitempty"`
	Rule     string `json:"rule,omitempty"`
	Mode     string `json:"mode"`
	Handling string `json:"handling,omitempty"`
	// UpstreamProxy is the address of the proxy by which it would leave; "" for
	// none, or where nothing leaves.
	UpstreamProxy string `json:"upstream_proxy,omitempty"`
	// Stages are the keys of the rule that act on the request if it passes, in
	// their order; what they would do is not tried.
	Stages []string `json:"stages,omitempty"`
	// Hint tells how to allow what was refused.
	Hint string `json:"hint,omitempty"`
	// Steps are the rules that were looked at, in order.
	Steps []Step `json:"steps"`
}

// Step is one rule that was looked at.
type Step struct {
	Rule    string `json:"rule"`
	Matched bool   `json:"matched"`
	// Why it was passed over, or what it decided.
	Why string `json:"why"`
}
