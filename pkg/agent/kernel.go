package agent

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/datapath"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
)

// kernelEvents records what the kernel saw by itself, and hands the totals of
// captured flows to the proxy, which records those flows.
func (w *worker) kernelEvents(ctx context.Context, k *protocol.KernelArgs) {
	if k.Lost > 0 {
		w.audit.Record(&audit.Event{Kind: audit.Lifecycle, Count: k.Lost, Message: "events of the kernel were lost; its counters are exact"})
	}
	for _, r := range k.Rejected {
		w.rejected(ctx, &r)
	}
	for i := range k.Foreign {
		w.foreign(ctx, &k.Foreign[i])
	}
	for i := range k.Ended {
		totals := k.Ended[i].Totals()
		w.proxy.FlowClosed(k.Ended[i].Flow(), leg(&totals))
	}
	for i := range k.Events {
		e := &k.Events[i]
		id, err := w.identities.look(ctx, e.Flow.Cgroup, e.Flow.PID)
		if err != nil {
			w.log.Warn("kernel event without a workload", zap.Error(err), zap.Uint64("cgroup", e.Flow.Cgroup))
			id.Identity.Name = metrics.OtherName
		}
		event := audit.Event{
			Time:     e.Time,
			Workload: auditWorkload(&id, e.Flow.PID, e.Flow.UID),
			Flow:     e.Flow.ID,
			Dst:      audit.Destination{IP: e.Flow.Dst.Addr(), Port: e.Flow.Dst.Port()},
			Mode:     w.config.Load().policy.WorkloadMode(id.Identity.Name).String(),
		}
		if e.Inbound || e.Flow.Kind == datapath.Inbound {
			event.Direction = "inbound"
		}
		switch e.Kind {
		case datapath.Refused:
			w.refused(&event, e)
		case datapath.Opened:
			w.flowOpened(&event, e)
		case datapath.Closed:
			w.flowClosed(&event, e)
		}
	}
}

// refused records what never became a connection.
func (w *worker) refused(event *audit.Event, e *datapath.Event) {
	event.Kind = audit.Refused
	if e.Reason == datapath.ForeignSocket {
		event.Kind = audit.ForeignSocket
	}
	event.Verdict, event.Reason, event.Count = policy.Deny.String(), e.Reason.String(), e.Count
	event.Message = fmt.Sprintf("%s refused in the kernel", e.Flow.Protocol)
	w.audit.Record(event)
}

// guardRejected is the reason of what only the guard saw.
const guardRejected = "guard_rejected"

// rejected records packets that the guard rejected.
func (w *worker) rejected(ctx context.Context, r *protocol.Rejected) {
	id, err := w.identities.look(ctx, r.Cgroup, 0)
	if err != nil {
		id.Identity.Name = metrics.OtherName
	}
	reason, direction, message := guardRejected, "", "packets rejected by the guard, which does not tell where they were going"
	if r.Inbound {
		reason, direction = datapath.InboundDenied.String(), "inbound"
		message = "connections from elsewhere dropped by the guard, which does not tell from where"
	}
	w.audit.Record(&audit.Event{
		Kind: audit.Refused, Verdict: policy.Deny.String(), Reason: reason, Direction: direction, Count: r.Packets,
		Mode:     w.config.Load().policy.WorkloadMode(id.Identity.Name).String(),
		Workload: auditWorkload(&id, 0, 0),
		Message:  message,
	})
}

// flowOpened records a flow that the proxy never sees: a direct or an inbound
// one.
func (w *worker) flowOpened(event *audit.Event, e *datapath.Event) {
	event.Kind, event.Verdict, event.Rule = audit.FlowOpen, policy.Allow.String(), e.Flow.Rule
	if e.Flow.Kind == datapath.Direct {
		event.TLS.Handling = policy.Direct.String()
	}
	w.audit.Record(event)
	w.metrics.Workload(event.Workload.Name).FlowOpened(policy.Direct, policy.Allow)
}

func (w *worker) flowClosed(event *audit.Event, e *datapath.Event) {
	event.Kind, event.Verdict, event.Rule = audit.FlowClose, policy.Allow.String(), e.Flow.Rule
	event.Duration.Total = e.Time.Sub(e.Flow.Opened)
	if e.Flow.Kind == datapath.Direct {
		event.TLS.Handling = policy.Direct.String()
		event.Counters.Upstream = leg(&e.Flow.Totals)
	} else {
		event.Counters.Workload = leg(&e.Flow.Totals)
	}
	w.audit.Record(event)
	m := w.metrics.Workload(event.Workload.Name)
	m.FlowClosed()
	t := &e.Flow.Totals
	m.LegClosed(legOf(e.Flow.Kind), t.BytesSent, t.BytesReceived, uint64(t.Retransmits), t.RTT)
}

// legOf says which leg the kernel's figures of a flow are: those of a direct flow
// are of the socket that reaches the upstream itself.
func legOf(k datapath.Kind) metrics.Leg {
	if k == datapath.Direct {
		return metrics.UpstreamLeg
	}
	return metrics.WorkloadLeg
}

// leg is the section of an event for the kernel's totals.
func leg(t *datapath.Totals) audit.Leg {
	return audit.Leg{
		BytesSent: t.BytesSent, BytesReceived: t.BytesReceived,
		Segments: uint64(t.SegmentsOut) + uint64(t.SegmentsIn), Retransmits: uint64(t.Retransmits), RTT: t.RTT,
	}
}
