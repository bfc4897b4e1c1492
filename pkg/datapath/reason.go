package datapath

import "fmt"

// A Reason says why the kernel side refused something. The set is closed: the
// programs (enum sp_reason in bpf/types.h), the metric bpf_refused_total and the
// audit use the same names.
type Reason uint8

// The reasons, in the order of enum sp_reason.
const (
	NoReason Reason = iota
	// NoListener: nobody of ours listens in the socket's network namespace.
	NoListener
	// ForeignListener: somebody else holds our listener's port.
	ForeignListener
	// MapFull: no flow place is left.
	MapFull
	// WorkloadFull: this workload holds its half of the places.
	WorkloadFull
	// ForeignSocket: a tagged task used a socket that no tagged cgroup made.
	ForeignSocket
	// OwnAddress: the target is a listener, admin or metrics address of ours.
	OwnAddress
	// ProtocolDenied: a transport that nothing here can decide on.
	ProtocolDenied
	// RawDenied: a raw socket.
	RawDenied
	// UDPDenied: UDP that is neither DNS nor direct.
	UDPDenied
	// EgressDenied: a packet that belongs to no decision.
	EgressDenied
	// InboundDenied: the answer to a connection from another host on a port that
	// the workload's `listen` does not name.
	InboundDenied
	// FlowLost: the origin of a connection could not be kept, so it was closed.
	FlowLost
	// AskerFull: no place is left for a DNS client.
	AskerFull
	// NoConfig: what a program needs to decide is not there.
	NoConfig
	reasonCount
)

var reasonNames = [reasonCount]string{
	NoReason:        "",
	NoListener:      "no_listener",
	ForeignListener: "foreign_listener",
	MapFull:         "map_full",
	WorkloadFull:    "workload_full",
	ForeignSocket:   "foreign_socket",
	OwnAddress:      "own_address",
	ProtocolDenied:  "protocol_denied",
	RawDenied:       "raw_denied",
	UDPDenied:       "udp_denied",
	EgressDenied:    "egress_denied",
	InboundDenied:   "inbound_denied",
	FlowLost:        "flow_lost",
	AskerFull:       "asker_full",
	NoConfig:        "no_config",
}

// String gives the reason's name; it panics for a value outside the set.
func (r Reason) String() string {
	if r >= reasonCount {
		panic(fmt.Sprintf("datapath: Reason(%d) is not in the closed set", uint8(r)))
	}
	return reasonNames[r]
}

// Reasons gives every reason there is, without NoReason.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := NoReason + 1; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}
