package datapath

import (
	"fmt"
	"net/netip"
	"time"
)

// A Kind says how a flow goes on.
type Kind uint8

// The kinds, in the order of enum sp_kind.
const (
	// Captured flows were redirected to our listener.
	Captured Kind = iota + 1
	// Direct flows were left alone by a rule; they never reach the worker.
	Direct
	// Inbound flows were accepted by the workload.
	Inbound
)

// String gives the kind's name, "" for the zero value of refusals; it panics for a value outside the set.
func (k Kind) String() string {
	switch k {
	case 0:
		return ""
	case Captured:
		return "captured"
	case Direct:
		return "direct"
	case Inbound:
		return "inbound"
	default:
		panic(fmt.Sprintf("datapath: Kind(%d) is not in the closed set", uint8(k)))
	}
}

// A Protocol is a transport by its protocol number (262 is MPTCP).
type Protocol uint16

// The transports that a decision can cover.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String gives the name of policy and audit; other numbers are printed as such,
// since refusals name them.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	default:
		return fmt.Sprintf("ip-%d", uint16(p))
	}
}

// FlowStats is one flow with what the kernel counted for it. Totals of a flow
// that is still open are at most a second old while it sends.
type FlowStats struct {
	// ID is the cookie of the workload's socket.
	ID uint64
	// Cgroup is the id of the cgroup that made the socket; Workload of the tagged
	// cgroup, or of its child below a tagged slice.
	Cgroup, Workload uint64
	// Netns is the cookie of the socket's network namespace.
	Netns uint64
	Kind  Kind
	// Protocol is the transport.
	Protocol Protocol
	// Src is the workload's end; the zero value where no packet was sent yet.
	Src netip.AddrPort
	// Dst is where the workload wanted to go; for Inbound, its peer. IPv4 and
	// mapped addresses are plain IPv4.
	Dst netip.AddrPort
	// PID and UID are of the task that called connect; 0 where unknown.
	PID, UID uint32
	// Rule names the direct rule that let it pass.
	Rule string
	// Established is false for an attempt that got no answer.
	Established bool
	// Opened is when connect was called, or an inbound connection accepted.
	Opened time.Time
	Totals Totals
}

// Totals are what the kernel counted of one connection, seen from the workload.
type Totals struct {
	// BytesSent is payload that the far end acknowledged (for UDP: that left);
	// BytesReceived is payload received, 0 for UDP.
	BytesSent, BytesReceived uint64
	// SegmentsOut and SegmentsIn count segments (for UDP: datagrams out).
	SegmentsOut, SegmentsIn uint32
	Retransmits             uint32
	// RTT is the smoothed round trip time, 0 where not measured.
	RTT time.Duration
}

// An EventKind says what an Event tells.
type EventKind uint8

// The kinds of events.
const (
	// Refused: something was refused; Event.Reason says why.
	Refused EventKind = iota + 1
	// Opened: a Direct or Inbound flow began. A captured one is announced by the
	// worker that accepts it.
	Opened
	// Closed: a flow of any kind ended; its totals are final.
	Closed
)

// An Event comes from the kernel. For Refused, Flow has what was known of the
// attempt: cgroup, workload, netns, destination, protocol, and pid and uid where
// the refusal happened in the task itself.
type Event struct {
	Kind   EventKind
	Reason Reason
	// Count is how many equal refusals this one stands for, at least 1.
	Count uint64
	Time  time.Time
	Flow  FlowStats
	// Inbound is set for refused answers to connections from outside.
	Inbound bool
}

// A Resource is something bounded and how full it is.
type Resource struct {
	Name              string
	Entries, Capacity uint64
}
