package agent

import (
	"slices"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/origin"
)

// probe gives the answer to a flow of the self-probe: what the kernel told us
// about it, for the keeper to compare. Other flows get none.
func (w *worker) probe(flow *origin.Flow) []byte {
	if flow.Cgroup != w.args.Probe.Cgroup || !slices.Contains(w.args.Probe.Captured, flow.Dst) {
		return nil
	}
	return []byte(protocol.ProbeAnswer(flow.Dst, flow.Cgroup, flow.PID) + "\n")
}
