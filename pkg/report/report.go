// Package report adds up audit events into what people otherwise make with awk:
// who was refused and why, what failed, who asks most, what is slow or large.
// Its memory is bounded whatever the events say.
package report

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/policy"
)

// maxGroups bounds the groups of each table. What comes beyond is counted under
// Other.
const maxGroups = 10_000

// Other stands for what had no room in a table of its own.
const Other = "(other)"

// A Report is what the events that were added come to.
type Report struct {
	top int

	first, last         time.Time
	events, unreadable  uint64
	kinds               map[audit.Kind]uint64
	limited, auth       groups
	errors, wouldDeny   groups
	denied, tls         groups
	workloads, hosts    groups
	rules, cache, found groups
	slowest, largest    ranking
}

// New gives an empty report whose tables are cut to top rows (at least 1).
func New(top int) *Report {
	top = max(top, 1)
	return &Report{top: top, kinds: make(map[audit.Kind]uint64), slowest: ranking{most: top}, largest: ranking{most: top}}
}

// Unreadable counts a line that is no event.
func (r *Report) Unreadable() { r.unreadable++ }

// Add counts one event; it keeps nothing of it.
func (r *Report) Add(e *audit.Event) {
	r.events++
	r.kinds[e.Kind]++
	if r.first.IsZero() || e.Time.Before(r.first) {
		r.first = e.Time
	}
	if e.Time.After(r.last) {
		r.last = e.Time
	}
	n := max(e.Count, 1)
	host := hostOf(e)
	r.verdict(e, host, n)
	switch e.Kind {
	case audit.Exchange:
		r.exchange(e, host)
	case audit.TLSRejected:
		r.tls.add(n, e.Workload.Name, host)
	case audit.FlowClose:
		if e.TLS.Handling != "inspect" {
			w := r.workloads.get(e.Workload.Name)
			w.Sent += e.Counters.Workload.BytesSent
			w.Received += e.Counters.Workload.BytesReceived
		}
	}
}

// verdict counts refusals, and what observe mode let pass.
func (r *Report) verdict(e *audit.Event, host string, n uint64) {
	switch {
	case e.Verdict == policy.WouldDeny.String():
		r.wouldDeny.add(n, e.Reason, e.Workload.Name, e.Rule, host)
	case e.Verdict != policy.Deny.String():
		return
	case e.Reason == policy.RateLimited.String(), e.Reason == policy.Throttled.String():
		r.limited.add(n, e.Workload.Name, e.Rule, e.Reason)
	case e.Reason == policy.AuthRequired.String(), e.Reason == policy.AuthDenied.String():
		r.auth.add(n, e.Workload.Name, e.Rule, e.Reason, host)
	case e.Reason == policy.ContentFilter.String(), e.Reason == policy.ResponseFilter.String(), e.Reason == policy.SecretFound.String():
		r.found.add(n, e.Workload.Name, e.Rule, e.Reason, host)
	}
	if e.Verdict == policy.Deny.String() && e.Kind != audit.FlowClose {
		r.denied.add(n, e.Reason, e.Workload.Name, e.Rule, host)
	}
}

func (r *Report) exchange(e *audit.Event, host string) {
	h := &e.HTTP
	status := strconv.Itoa(h.Status)
	switch {
	case h.Status >= 500:
		why := e.Reason
		if e.Verdict != policy.Deny.String() {
			why = "answered by the upstream"
		}
		r.errors.add(1, host, status, why)
	case (h.Status == 401 || h.Status == 403 || h.Status == 407) && e.Verdict != policy.Deny.String():
		r.auth.add(1, e.Workload.Name, e.Rule, "upstream answered "+status, host)
	}
	if e.Cache != "" {
		r.cache.add(1, e.Cache)
	}
	for _, row := range []*Row{r.workloads.get(e.Workload.Name), r.hosts.get(host), r.rules.get(e.Rule)} {
		row.Count++
		row.Sent += uint64(max(h.RequestBytes, 0))
		row.Received += uint64(max(h.ResponseBytes, 0))
		if e.Verdict == policy.Deny.String() {
			row.Denied++
		}
	}
	asked := func() string { return clip(strings.TrimSpace(h.Method + " " + host + h.Path)) }
	if total := e.Duration.Total; total > 0 {
		r.slowest.offer(uint64(total), func() Extreme {
			return Extreme{Time: e.Time, ID: strings.Clone(e.ID), Workload: strings.Clone(e.Workload.Name), Request: asked(), Status: h.Status, Total: total.Seconds(), Upstream: e.Duration.Upstream.Seconds()}
		})
	}
	if bytes := uint64(max(h.RequestBytes, 0) + max(h.ResponseBytes, 0)); bytes > 0 {
		r.largest.offer(bytes, func() Extreme {
			return Extreme{Time: e.Time, ID: strings.Clone(e.ID), Workload: strings.Clone(e.Workload.Name), Request: asked(), Status: h.Status, Sent: h.RequestBytes, Received: h.ResponseBytes}
		})
	}
}

// hostOf names where an event wanted to go.
func hostOf(e *audit.Event) string {
	switch {
	case e.Dst.Host != "":
		return e.Dst.Host
	case e.DNS.Name != "":
		return e.DNS.Name
	case e.HTTP.Host != "":
		return e.HTTP.Host
	case e.TLS.SNI != "":
		return e.TLS.SNI
	case e.Dst.IP.IsValid():
		return e.Dst.IP.Unmap().String()
	default:
		return ""
	}
}

// maxName bounds what is kept of a text, in bytes: a workload chooses paths and,
// where its request is refused as malformed, hosts.
const maxName = 300

// clip gives at most maxName bytes of a text and shares nothing with it: the
// strings of an event may share a whole line.
func clip(s string) string {
	if len(s) <= maxName {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:maxName], "") + "…"
}

// A Row is one group of a table. What a table does not count is 0.
type Row struct {
	// Names are the values of the table's columns.
	Names []string `json:"names"`
	Count uint64   `json:"count"`
	// Denied are those of Count that were refused; Sent and Received are bytes
	// as the workload sees them.
	Denied   uint64 `json:"denied,omitempty"`
	Sent     uint64 `json:"sent,omitempty"`
	Received uint64 `json:"received,omitempty"`
}

// groups are the rows of a table by their names.
type groups struct {
	rows map[string]*Row
	key  []byte
}

func (g *groups) add(n uint64, names ...string) { g.get(names...).Count += n }

// get gives the row of these names, or that of Other where there is no room.
func (g *groups) get(names ...string) *Row {
	if g.rows == nil {
		g.rows = make(map[string]*Row)
	}
	g.key = g.key[:0]
	for _, name := range names {
		g.key = append(append(g.key, name[:min(len(name), maxName)]...), 0)
	}
	if row := g.rows[string(g.key)]; row != nil {
		return row
	}
	if len(g.rows) >= maxGroups {
		return g.other(len(names))
	}
	row := &Row{Names: make([]string, len(names))}
	for i, name := range names {
		row.Names[i] = clip(name)
	}
	g.rows[string(g.key)] = row
	return row
}

// other is the row beyond the bound.
func (g *groups) other(columns int) *Row {
	const key = "\x00other"
	row := g.rows[key]
	if row == nil {
		row = &Row{Names: slices.Repeat([]string{Other}, columns)}
		g.rows[key] = row
	}
	return row
}

// ranked gives the rows with the greatest counts first, at most n, and how many
// there are.
func (g *groups) ranked(n int) ([]Row, int) {
	all := make([]Row, 0, len(g.rows))
	for _, row := range g.rows {
		all = append(all, *row)
	}
	slices.SortFunc(all, func(a, b Row) int {
		if c := cmp.Compare(b.Count, a.Count); c != 0 {
			return c
		}
		if c := cmp.Compare(b.Sent+b.Received, a.Sent+a.Received); c != 0 {
			return c
		}
		return slices.Compare(a.Names, b.Names)
	})
	return all[:min(n, len(all))], len(all)
}
