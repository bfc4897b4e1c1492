package agent

import (
	"context"
	"fmt"

	"sallyport/pkg/audit"
	"sallyport/pkg/datapath"
	"sallyport/pkg/foreign"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
)

// foreign records a socket that was connected before its process, or the tag,
// came to the workload.
func (w *worker) foreign(ctx context.Context, f *protocol.Foreign) {
	id, err := w.identities.look(ctx, f.Cgroup, 0)
	if err != nil {
		id.Identity.Name = metrics.OtherName
	}
	id.Exe = f.Exe
	w.metrics.ForeignSocket(f.Outcome)
	w.audit.Record(&audit.Event{
		Time: f.Time, Kind: audit.ForeignSocket, Verdict: policy.Deny.String(), Reason: datapath.ForeignSocket.String(),
		Mode:     w.config.Load().policy.WorkloadMode(id.Identity.Name).String(),
		Workload: auditWorkload(&id, f.PID, f.UID), Flow: f.Flow,
		Dst:     audit.Destination{IP: f.Dst.Addr(), Port: f.Dst.Port()},
		Message: foreignMessage(f),
	})
}

// foreignMessage explains it to a person.
func foreignMessage(f *protocol.Foreign) string {
	ended := "its process was ended"
	switch f.Outcome {
	case string(foreign.Emptied):
		ended = "the connection that they came by was ended"
	case string(foreign.Failed):
		ended = "it could not be ended: " + f.Error
	}
	switch f.Kind {
	case foreign.KindInFlight:
		return "descriptors in the queue of a unix socket that could not be looked at: " + ended
	case foreign.KindBeyond:
		return fmt.Sprintf("more than %d descriptors or %d cgroups in one workload: %s", foreign.MaxWork, foreign.MaxCgroups, ended)
	}
	what := f.Kind + " socket"
	switch {
	case f.Listening:
		what = f.Kind + " listener"
	case f.Dst.IsValid():
		what = f.Kind + " connection"
	}
	switch {
	case f.Tagged:
		what += " that is older than the gate"
	case f.Maker != "":
		what += " made in " + f.Maker
	default:
		what += " made elsewhere"
	}
	switch f.Outcome {
	case "destroyed":
		return what + ": destroyed"
	case "process_ended":
		return what + ": the kernel cannot destroy it, so its process was ended"
	case string(foreign.Emptied):
		return what + " in the queue of a unix socket: the kernel cannot destroy it, so the connection that it came by was ended"
	}
	return what + ": it could not be ended: " + f.Error
}
