package metrics

import "sallyport/pkg/audit"

// A Resource is a bounded thing: a map, a queue, a cache, a pool, a table of
// names. Entries and Capacity have the same unit.
type Resource struct {
	Name              string
	Entries, Capacity uint64
}

// A Leg is an end of a proxied flow.
type Leg uint8

// The legs. Direct flows have the upstream leg only.
const (
	WorkloadLeg Leg = iota
	UpstreamLeg
	legs
)

var legNames = [legs]string{WorkloadLeg: "workload", UpstreamLeg: "upstream"}

// A LiveFlow is what the kernel has counted so far on one leg of a flow that is
// still open.
type LiveFlow struct {
	Workload                    string
	Leg                         Leg
	Sent, Received, Retransmits uint64
}

// Datapath gives the kernel side's figures. Implementations may answer from a
// short-lived copy; an error leaves the families out and is reported in the page's
// log.
type Datapath interface {
	// Refusals counts by the kernel's reason (bpf_refused_total).
	Refusals() (map[string]uint64, error)
	// EventsLost counts what the kernel could not tell (bpf_events_lost_total).
	EventsLost() (uint64, error)
	// LiveFlows lists open flows; their figures are added to those of the closed
	// ones (Workload.FlowClosed). A flow must be in at most one of the two.
	LiveFlows() ([]LiveFlow, error)
}

// Guard gives the nftables table's figures.
type Guard interface {
	// RejectedPackets counts over the life of the process: an implementation
	// adds up what a repaired table has lost.
	RejectedPackets() (uint64, error)
}

// Audit is *audit.Log.
type Audit interface {
	Stats() audit.Stats
}
