package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/metrics"
	"sallyport/pkg/origin"
	"sallyport/pkg/policy"
	"sallyport/pkg/resolver"
	"sallyport/pkg/workload"
)

// askers tell the resolver who sent a datagram.
type askers struct {
	origin     originSource
	identities *identities
}

func (a *askers) Asker(netns uint64, src netip.AddrPort) (resolver.Client, error) {
	flow, err := a.origin.Asker(netns, src)
	if errors.Is(err, origin.ErrNoFlow) {
		return resolver.Client{}, fmt.Errorf("%w: %w", resolver.ErrNoAsker, err)
	} else if err != nil {
		return resolver.Client{}, err
	}
	id, err := a.identities.look(context.Background(), flow.Cgroup, flow.PID)
	if err != nil {
		return resolver.Client{}, fmt.Errorf("%w: %w", resolver.ErrNoAsker, err)
	}
	return client(&flow, &id.Identity, src), nil
}

func client(flow *origin.Flow, id *workload.Identity, src netip.AddrPort) resolver.Client {
	return resolver.Client{
		Workload: id.Name, Cgroup: flow.Cgroup, Netns: flow.Netns, Flow: flow.ID,
		PID: flow.PID, UID: flow.UID, Source: src, Server: flow.Dst,
	}
}

// serveDNS answers DNS over TCP, which arrives at the proxy's listener.
func (w *worker) serveDNS(ctx context.Context, conn *net.TCPConn, flow *origin.Flow, id *workload.Identity) {
	if err := w.resolver.ServeTCP(ctx, conn, client(flow, id, flow.Src)); err != nil {
		w.log.Debug("dns over tcp", zap.Error(err))
	}
}

// names are judged by the policy in force.
type names struct{ w *worker }

func (n *names) DecideName(workload, host string) resolver.Decision {
	s := n.w.config.Load()
	d := s.policy.DecideName(workload, host)
	out := resolver.Decision{Verdict: d.Verdict, Reason: d.Reason, Rule: d.Rule, Mode: d.Mode, ByProxy: d.Ways.Proxied()}
	if d.Verdict == policy.Deny {
		out.Hint = policy.Hint(&policy.Query{Workload: workload, Host: host}, &d)
	}
	return out
}

// dnsRecorder writes the audit event of a question.
type dnsRecorder struct{ w *worker }

func (r *dnsRecorder) Healthy() error { return r.w.audit.Healthy() }

func (r *dnsRecorder) RecordDNS(e *resolver.Event) error {
	if err := r.w.audit.Healthy(); err != nil {
		return err
	}
	id, err := r.w.identities.look(context.Background(), e.Client.Cgroup, e.Client.PID)
	if err != nil {
		return err
	}
	event := audit.Event{
		Time: e.Time, Kind: audit.DNS,
		Verdict: e.Decision.Verdict.String(), Reason: e.Decision.Reason.String(), Rule: e.Decision.Rule, Mode: e.Decision.Mode.String(),
		Workload: auditWorkload(&id, e.Client.PID, e.Client.UID),
		Flow:     e.Client.Flow,
		Dst:      audit.Destination{IP: e.Client.Server.Addr(), Port: e.Client.Server.Port()},
		DNS:      audit.DNSQuery{Name: e.Name, Type: e.Type, Answers: e.Answers, Rcode: e.Rcode},
		Duration: audit.Duration{Total: e.Duration},
		Message:  e.Error,
	}
	r.w.audit.Record(&event)
	return nil
}

// auditWorkload is the section `workload` of an event.
func auditWorkload(id *protocol.IdentifyResult, pid, uid uint32) audit.Workload {
	return audit.Workload{
		Name: id.Identity.Name, Cgroup: id.Identity.Cgroup, Unit: id.Identity.Unit, Container: id.Identity.Container,
		PID: pid, UID: uid, Exe: id.Exe,
	}
}

// dnsMeter counts questions.
type dnsMeter struct{ metrics *metrics.Metrics }

func (m *dnsMeter) Query(workload string, v policy.Verdict) { m.metrics.Workload(workload).DNSQuery(v) }

// Dropped counts what got no answer, and whose workload nobody knows.
func (m *dnsMeter) Dropped(why resolver.Drop) {
	reason := policy.FlowLost
	switch why {
	case resolver.DropNotAQuery:
		reason = policy.MalformedRequest
	case resolver.DropOverload:
		reason = policy.Overloaded
	}
	m.metrics.Workload("").Rule("").Denied(reason, policy.Deny)
}
