package protocol

import (
	"time"

	"sallyport/pkg/datapath"
)

// Ended is what the kernel counted of a captured connection that has ended: the
// flow's id, payload bytes that the workload sent and received, segments out and
// in, retransmits, and the round trip time in ns. The worker knows the rest. One
// comes with each connection; as an object with all that an event tells it would
// be eight times as dear.
type Ended [7]uint64

// EndedOf gives what is told of a captured flow that has ended.
func EndedOf(f *datapath.FlowStats) Ended {
	t := &f.Totals
	return Ended{f.ID, t.BytesSent, t.BytesReceived, uint64(t.SegmentsOut), uint64(t.SegmentsIn), uint64(t.Retransmits), uint64(t.RTT)}
}

// Flow is the flow's id.
func (e *Ended) Flow() uint64 { return e[0] }

// Totals gives what was counted.
func (e *Ended) Totals() datapath.Totals {
	return datapath.Totals{
		BytesSent: e[1], BytesReceived: e[2],
		SegmentsOut: uint32(e[3]), SegmentsIn: uint32(e[4]), Retransmits: uint32(e[5]),
		RTT: time.Duration(e[6]),
	}
}
