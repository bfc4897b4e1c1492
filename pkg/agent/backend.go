package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"sallyport/pkg/admin"
	"sallyport/pkg/audit"
	"sallyport/pkg/config"
	"sallyport/pkg/datapath"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/policy"
)

// serveAdmin answers on the admin socket.
func (w *worker) serveAdmin(ctx context.Context) error {
	s, err := admin.NewServer(admin.Options{
		Backend: w,
		Access:  admin.Access{GroupID: w.args.AdminGroup, Tagged: w.taggedPeer},
		Record:  w.audit.Record,
		Metrics: w.metrics.Handler(),
		Log:     w.log.Named("admin"),
	})
	if err != nil {
		return err
	}
	return s.Serve(ctx, w.files.admin)
}

// taggedPeer reports whether a peer runs in a tagged cgroup: what is guarded
// must not see or change how.
func (w *worker) taggedPeer(p *admin.Peer) (bool, error) {
	path, err := p.Cgroup()
	if err != nil {
		return true, err
	}
	tagged := append([]string{w.args.Slice}, w.report.Load().Elsewhere...)
	return slices.ContainsFunc(tagged, func(t string) bool { return path == t || strings.HasPrefix(path, t+"/") }), nil
}

// Ready is nil when everything is as it must be.
func (w *worker) Ready() error {
	h := w.report.Load()
	switch {
	case !h.Ready:
		return errors.New("not ready: the self-probe has not succeeded yet")
	case !h.EnforcementActive:
		return fmt.Errorf("enforcement is not proven: %s", strings.Join(h.Problems, "; "))
	}
	return w.audit.Healthy()
}

// Status describes everything in a page.
func (w *worker) Status(context.Context) (*admin.Status, error) {
	h, s := w.report.Load(), w.config.Load()
	out := &admin.Status{
		Ready: w.Ready() == nil, Mode: string(s.config.Mode), EnforcementActive: h.EnforcementActive, Locks: h.Locks,
		Config:    admin.Config{Hash: s.hash, Error: h.ConfigError},
		Workloads: []admin.Workload{}, Maps: map[string]admin.Fill{}, Problems: slices.Clone(h.Problems),
		Pinned: []admin.Pinned{},
	}
	for _, p := range w.proxy.Pinned() {
		out.Pinned = append(out.Pinned, admin.Pinned{Workload: p.Workload, Host: p.Host, Until: p.Until})
	}
	if out.Problems == nil {
		out.Problems = []string{}
	}
	if err := w.audit.Fault(); err != nil {
		out.Problems = append(out.Problems, "audit: "+strings.TrimPrefix(err.Error(), "audit ")+w.auditRemedy())
	}
	if err := w.sinks.trouble(); err != nil {
		out.Problems = append(out.Problems, "audit: "+err.Error())
	}
	out.Problems = append(out.Problems, w.targetProblems()...)
	out.Problems = append(out.Problems, w.stages.Problems(s.config)...)
	for _, r := range w.metrics.Resources() {
		out.Maps[r.Name] = admin.Fill{Entries: r.Entries, Capacity: r.Capacity}
	}
	snapshot, err := w.snapshots.get()
	if err != nil {
		out.Problems = append(out.Problems, "keeper: "+err.Error())
		return out, nil
	}
	out.Flows = len(snapshot.Flows)
	flows := make(map[string]int)
	for i := range snapshot.Flows {
		flows[w.nameOf(snapshot.Flows[i].Cgroup)]++
	}
	for _, id := range snapshot.Workloads {
		var notes []string
		if !id.Confined && id.Command != "" {
			notes = append(notes, "root: not confined")
		}
		notes = append(notes, snapshot.Notes[id.Cgroup]...)
		out.Workloads = append(out.Workloads, admin.Workload{
			Name: id.Name, Cgroup: id.Cgroup, Unit: id.Unit, Container: id.Container, Command: id.Command,
			Mode: s.policy.WorkloadMode(id.Name).String(), Flows: flows[id.Name], Note: strings.Join(notes, "; "),
		})
	}
	return out, nil
}

// auditRemedy says what a failing audit means and what to do.
func (w *worker) auditRemedy() string {
	if w.audit.Healthy() == nil {
		return "; exchanges go on, recorded in part: give the sink room, or start its receiver"
	}
	return "; exchanges are refused: give the sink room, start its receiver, or set audit.on_failure: continue"
}

// Flows lists the open flows.
func (w *worker) Flows(ctx context.Context) ([]admin.Flow, error) {
	snapshot, err := w.snapshots.get()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := make([]admin.Flow, 0, len(snapshot.Flows))
	for i := range snapshot.Flows {
		f := &snapshot.Flows[i]
		id, err := w.identities.look(ctx, f.Cgroup, f.PID)
		if err != nil {
			continue // it ended while we asked
		}
		totals := leg(&f.Totals)
		line := admin.Flow{
			ID: f.ID, State: admin.FlowOpen, Opened: f.Opened, Duration: now.Sub(f.Opened).Seconds(),
			Workload: admin.FlowWorkload{Name: id.Identity.Name, Cgroup: id.Identity.Cgroup, PID: f.PID, UID: f.UID, Exe: id.Exe},
			Dst:      admin.FlowDst{IP: f.Dst.Addr(), Port: f.Dst.Port()},
			Verdict:  policy.Allow.String(), Rule: f.Rule,
		}
		if name, ok := w.resolver.Name(id.Identity.Name, f.Dst.Addr()); ok {
			line.Dst.Host = name
		}
		switch f.Kind {
		case datapath.Direct:
			line.Handling = policy.Direct.String()
			line.Counters.Upstream = adminLeg(&totals)
		case datapath.Inbound:
			line.Direction = "inbound"
			line.Counters.Workload = adminLeg(&totals)
		default:
			line.Counters.Workload = adminLeg(&totals)
		}
		out = append(out, line)
	}
	slices.SortFunc(out, func(a, b admin.Flow) int { return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

func adminLeg(l *audit.Leg) *admin.Leg {
	return &admin.Leg{BytesSent: l.BytesSent, BytesReceived: l.BytesReceived, Segments: l.Segments, Retransmits: l.Retransmits, RTT: l.RTT.Seconds()}
}

// Follow follows the audit.
func (w *worker) Follow(recent int) (*audit.Subscription, error) { return w.audit.Subscribe(recent) }

// Reload has the keeper read the configuration again.
func (w *worker) Reload(ctx context.Context) (*admin.Reloaded, error) {
	_, err := w.keeper.Call(ctx, protocol.Reload, nil, nil, nil)
	out := &admin.Reloaded{Errors: []string{}}
	if remote, ok := errors.AsType[*wire.RemoteError](err); ok {
		out.Errors = strings.Split(remote.Text, "\n")
	} else if err != nil {
		return nil, err
	}
	out.Hash = w.config.Load().hash
	return out, nil
}

// Explain decides a made-up request.
func (w *worker) Explain(_ context.Context, r *admin.ExplainRequest) (*admin.Explanation, error) {
	s := w.config.Load()
	return Explain(s.config, s.policy, r)
}

// Explain decides a made-up request by a policy, compiled from c, and tells the
// way to it.
func Explain(c *config.Config, p *policy.Policy, r *admin.ExplainRequest) (*admin.Explanation, error) {
	q, err := query(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", admin.ErrBadRequest, err)
	}
	if q.Host != "" && !policy.IsAddress(q.Host) {
		ways := p.DecideName(q.Workload, q.Host).Ways
		q.ByProxy = ways.Proxied() && !ways.Resolved()
	}
	e := p.Explain(q)
	// An address is judged as if it were none of the host's own: whose it is here
	// says nothing about the host of the daemon.
	foreign := func(netip.Addr) bool { return false }
	if len(q.Addrs) == 1 && e.Decision.Upstream == "" && e.Decision.Verdict == policy.Allow && !e.Decision.Permits(q.Addrs[0], foreign) {
		e.Decision = e.Decision.Refuse(policy.AddressDenied)
		e.Hint = policy.Hint(q, &e.Decision)
	}
	out := &admin.Explanation{
		Verdict: e.Decision.Verdict.String(), Reason: e.Decision.Reason.String(), Rule: e.Decision.Rule,
		Mode: e.Decision.Mode.String(), Handling: e.Decision.Handling.String(), Hint: e.Hint, Steps: []admin.Step{},
	}
	if e.Decision.Verdict.Passes() {
		out.UpstreamProxy = e.Decision.Proxy.URL()
		if i := e.Decision.Index; i > 0 {
			out.Stages = c.Rules[i-1].Keys()
		}
	}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, admin.Step{Rule: s.Rule, Matched: s.Matched, Why: s.Why})
	}
	return out, nil
}

// query turns a URL into a question of policy: https://…, http://…, tls://host:port,
// tcp://host:port.
func query(r *admin.ExplainRequest) (*policy.Query, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, err
	}
	if u.Host == "" {
		return nil, fmt.Errorf("%q has no host: write it as https://host/path or tcp://host:port", r.URL)
	}
	q := &policy.Query{Workload: r.Workload}
	port := uint16(0)
	switch u.Scheme {
	case "https":
		q.Protocol, port = policy.HTTPS, 443
	case "http":
		q.Protocol, port = policy.HTTP, 80
	case "tls":
		q.Protocol, port = policy.TLS, 443
	case "tcp":
		q.Protocol = policy.TCP
	default:
		return nil, fmt.Errorf("scheme %q: want https, http, tls or tcp", u.Scheme)
	}
	if q.Host, q.Port, err = policy.CanonicalAuthority(u.Host, port); err != nil {
		return nil, err
	}
	if q.Port == 0 {
		return nil, fmt.Errorf("%q needs a port", r.URL)
	}
	showsRequest := q.Protocol == policy.HTTP || q.Protocol == policy.HTTPS
	if addr, err := netip.ParseAddr(q.Host); err == nil {
		q.Addrs = []netip.Addr{addr}
		if !showsRequest {
			// A request names the address in its Host; a connection names nothing.
			q.Host = ""
		}
	}
	if showsRequest {
		path := u.EscapedPath()
		q.HTTP = &policy.HTTPQuery{Method: cmp.Or(r.Method, "GET"), Path: cmp.Or(path, "/"), RawQuery: u.RawQuery, Header: headerList(r.Headers)}
	}
	return q, nil
}

// headerList are the header fields of a made-up request.
type headerList []admin.Header

// HeaderValue gives the i-th value of a field.
func (h headerList) HeaderValue(name string, i int) (string, bool) {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			if i == 0 {
				return f.Value, true
			}
			i--
		}
	}
	return "", false
}

// Fields walks the fields in order.
func (h headerList) Fields(yield func(name, value string) bool) {
	for _, f := range h {
		if !yield(f.Name, f.Value) {
			return
		}
	}
}
