package policy

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/pkg/config"
	"sallyport/pkg/policy/pattern"
)

// The reference decides without any index, straight from the configuration and
// the contract's words, and slowly. It knows only plain paths.

func referenceRule(c *config.Config, q *Query) (int, bool) {
	for i := range c.Rules {
		if referenceMatches(&c.Rules[i], q) {
			return i, true
		}
	}
	return 0, false
}

func referenceMatches(r *config.Rule, q *Query) bool {
	deny := r.Action == config.Deny
	m := &r.Match
	if len(m.Workloads) > 0 && !anyOf(m.Workloads, func(g pattern.Glob) bool { return shellMatch(g.String(), q.Workload) }) {
		return false
	}
	if len(m.Hosts) > 0 {
		found := false
		for _, h := range m.Hosts {
			name := h.String()
			if rest, wild := strings.CutPrefix(name, "*"); wild {
				found = found || q.Host != "" && strings.HasSuffix(q.Host, rest) && len(q.Host) > len(rest) && !strings.ContainsAny(q.Host, ":") && !isV4(q.Host)
			} else {
				found = found || name == q.Host
			}
		}
		if !found {
			return false
		}
	}
	if len(m.Ports) > 0 && !anyOf(m.Ports, func(p config.PortRange) bool { return p.First <= q.Port && q.Port <= p.Last }) {
		return false
	}
	protocols := m.Protocols
	if len(protocols) == 0 {
		protocols = []config.Protocol{config.TCP}
	}
	covers := map[config.Protocol][]Protocol{
		config.HTTP: {HTTP}, config.HTTPS: {HTTPS}, config.TLSP: {TLS, HTTPS}, config.TCP: {HTTP, HTTPS, TLS, TCP}, config.UDP: {UDP},
	}
	if !anyOf(protocols, func(p config.Protocol) bool { return slices.Contains(covers[p], q.Protocol) }) {
		return false
	}
	if len(m.CIDRs) > 0 {
		if len(q.Addrs) == 0 && !deny {
			return false
		}
		if len(q.Addrs) > 0 && !anyOf(m.CIDRs, func(p netip.Prefix) bool { return anyOf(q.Addrs, p.Contains) }) {
			return false
		}
	}
	if q.HTTP == nil {
		return !m.NeedsRequest() || deny
	}
	method := q.HTTP.Method
	if len(m.Methods) > 0 && !anyOf(m.Methods, func(g pattern.Glob) bool {
		return shellMatch(g.String(), method) || deny && shellMatch(g.String(), strings.ToUpper(method))
	}) {
		return false
	}
	for _, h := range m.Headers {
		values := q.HTTP.Header.(headers)[h.Name]
		n := 0
		for _, v := range values {
			if anyOf(h.Values, func(g pattern.Glob) bool { return shellMatch(g.String(), v) }) {
				n++
			}
		}
		if n == 0 || !deny && n < len(values) {
			return false
		}
	}
	return len(m.Paths) == 0 || anyOf(m.Paths, func(p pattern.Path) bool {
		return segmentsMatch(strings.Split(p.String(), "/"), strings.Split(q.HTTP.Path, "/"))
	})
}

func anyOf[T any](values []T, holds func(T) bool) bool { return slices.ContainsFunc(values, holds) }

func isV4(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() }

// shellMatch is path.Match, for strings without a slash.
func shellMatch(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

// segmentsMatch matches segment by segment; ** stands for any number of them.
func segmentsMatch(pattern, segments []string) bool {
	if len(pattern) == 0 {
		return len(segments) == 0
	}
	if pattern[0] == "**" {
		for i := range len(segments) + 1 {
			if segmentsMatch(pattern[1:], segments[i:]) {
				return true
			}
		}
		return false
	}
	return len(segments) > 0 && shellMatch(pattern[0], segments[0]) && segmentsMatch(pattern[1:], segments[1:])
}

// some draws a list of up to n of the values; empty is as likely as not.
func some[T any](t *rapid.T, label string, n int, values ...T) []T {
	if rapid.Bool().Draw(t, label+"?") {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(values), 1, n).Draw(t, label)
}

func list[T any](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// drawConfig draws few values, so that rules and queries often meet.
func drawConfig(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("workloads: { w1: {}, w2: { mode: observe } }\nrules:\n")
	for i := range rapid.IntRange(0, 12).Draw(t, "rules") {
		fmt.Fprintf(&b, "- name: r%d\n", i)
		action := rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "action")
		keys := []struct {
			name   string
			values []string
		}{
			{"workloads", some(t, "workloads", 2, "w1", "w2", "w*", "?1")},
			{"hosts", some(t, "hosts", 3, "a.test", "b.a.test", "*.a.test", "*.test", "*", "c.b.a.test", "*.b.a.test", "10.0.0.1")},
			{"cidrs", some(t, "cidrs", 2, "10.0.0.0/8", "10.1.0.0/16", "203.0.113.0/24", "2001:db8::/32")},
			{"ports", some(t, "ports", 2, "80", "443", "1-100", "400-500")},
			{"protocols", some(t, "protocols", 2, "http", "https", "tls", "tcp")},
			{"methods", some(t, "methods", 2, "GET", "POST", "P*", "LOCK")},
			{"paths", some(t, "paths", 2, "/x/a", "/x/*", "/x/**", "/**", "/x/*/b", "/x/**/b", "/longer/prefix/a", "/longer/prefix/**", "/longer/other")},
		}
		b.WriteString("  match:\n")
		if len(keys[3].values) == 0 {
			b.WriteString("    ports: [1-65535]\n")
		}
		for _, k := range keys {
			if len(k.values) > 0 {
				fmt.Fprintf(&b, "    %s: %s\n", k.name, list(k.values))
			}
		}
		if v := some(t, "headers", 2, "a", "b*"); len(v) > 0 {
			fmt.Fprintf(&b, "    headers: { X-Test: %s }\n", list(v))
		}
		fmt.Fprintf(&b, "  action: %s\n", action)
	}
	return strings.TrimSuffix(b.String(), "rules:\n")
}

func drawQuery(t *rapid.T) *Query {
	q := &Query{
		Workload: rapid.SampledFrom([]string{"w1", "w2", "other"}).Draw(t, "workload"),
		Host:     rapid.SampledFrom([]string{"", "a.test", "b.a.test", "c.b.a.test", "d.c.b.a.test", "test", "x.org", "10.0.0.1"}).Draw(t, "host"),
		Port:     rapid.SampledFrom([]uint16{80, 443, 500, 8080}).Draw(t, "port"),
		Protocol: rapid.SampledFrom([]Protocol{HTTP, HTTPS, TLS, TCP}).Draw(t, "protocol"),
	}
	for _, a := range some(t, "addrs", 2, "10.0.0.1", "10.1.0.1", "203.0.113.9", "2001:db8::1", "198.51.100.1") {
		q.Addrs = append(q.Addrs, netip.MustParseAddr(a))
	}
	if q.Protocol == HTTP || q.Protocol == HTTPS {
		q.HTTP = &HTTPQuery{
			Method: rapid.SampledFrom([]string{"GET", "POST", "PUT", "LOCK", "get", "HEAD"}).Draw(t, "method"),
			Path:   rapid.SampledFrom([]string{"/", "/x/a", "/x/b/b", "/x", "/y", "/longer/prefix/a", "/longer/prefix/b/b", "/longer/other"}).Draw(t, "path"),
			Header: headers{"X-Test": some(t, "values", 2, "a", "b", "bb", "c")},
		}
	}
	return q
}

// TestIndexAgainstReference: the index decides as looking at every rule in
// order would, and what is explained is what is decided.
func TestIndexAgainstReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawConfig(t)
		c, err := config.Parse([]config.File{{Name: "f", Data: []byte(text)}})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		p, err := Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			q := drawQuery(t)
			want, reason := "", NoRule
			if i, found := referenceRule(c, q); found {
				want, reason = c.Rules[i].Name, NoReason
				if c.Rules[i].Action == config.Deny {
					reason = RuleDenied
				}
			}
			d := p.Decide(q)
			if d.Rule != want || d.Reason != reason {
				t.Fatalf("%+v %+v\ndecided by %q (%v), want %q (%v)\n%s", q, q.HTTP, d.Rule, d.Reason, want, reason, text)
			}
			e := p.Explain(q)
			decider := ""
			if n := len(e.Steps); n > 0 && e.Steps[n-1].Matched {
				decider = e.Steps[n-1].Rule
			}
			if decider != d.Rule || e.Decision.Verdict != d.Verdict {
				t.Fatalf("explained by %q, decided by %q\n%+v\n%s", decider, d.Rule, e.Steps, text)
			}
			checkConnAgrees(t, p, q, &d)
		}
	})
}

// checkConnAgrees: what a connection is granted or refused unseen is what each
// request on it would be.
func checkConnAgrees(t *rapid.T, p *Policy, q *Query, d *Decision) {
	conn := p.DecideConn(q)
	switch {
	case conn.Action == TunnelConn && (d.Rule != conn.Rule || !d.Verdict.Passes()):
		t.Fatalf("%+v %+v\nthe connection is tunnelled by %q, its request is %v by %q", q, q.HTTP, conn.Rule, d.Verdict, d.Rule)
	case conn.Action == Refuse && d.Verdict.Passes():
		t.Fatalf("%+v %+v\nthe connection is refused by %q (%v), its request is allowed by %q", q, q.HTTP, conn.Rule, conn.Reason, d.Rule)
	}
	if q.Host != "" && d.Verdict == Allow {
		if name := p.DecideName(q.Workload, q.Host); !name.Verdict.Passes() && len(d.rule.cidrs) == 0 {
			t.Fatalf("%+v: allowed by %q, but the name is not resolved: %v by %q", q, d.Rule, name.Reason, name.Rule)
		}
	}
}
