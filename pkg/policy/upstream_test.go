package policy

import (
	"net/netip"
	"testing"
)

const upstreamRules = `
workloads: { w: {}, other: {} }
upstreams: { u: { targets: [ {target: "t.example:443"} ] } }
rules:
  - { name: only, match: { hosts: [only.example], workloads: [w] }, action: allow, upstream: u, private: [10.0.0.0/8] }
  - { name: first, match: { hosts: [mixed.example], paths: [/u/**] }, action: allow, upstream: u }
  - { name: ranged, match: { hosts: [ranged.example], cidrs: [203.0.113.0/24] }, action: allow, upstream: u }
  - { name: plain, match: { hosts: [mixed.example, plain.example] }, action: allow }
`

// TestUpstreamWays: a name that only a rule with an upstream knows is not
// resolved; one that others know too is where that is needed. Workloads are told
// an address that stands for it in both cases.
func TestUpstreamWays(t *testing.T) {
	p := compile(t, upstreamRules)
	for _, tt := range []struct {
		workload, host    string
		listed            bool
		standin, resolved bool
	}{
		{"w", "only.example", true, true, false},
		{"other", "only.example", false, false, true},
		{"w", "mixed.example", true, true, true},
		{"w", "ranged.example", true, true, false},
		{"w", "plain.example", true, false, true},
	} {
		d := p.DecideName(tt.workload, tt.host)
		if d.Verdict.Passes() != tt.listed || d.Ways.Proxied() != tt.standin || d.Ways.Resolved() != tt.resolved {
			t.Errorf("%s %s: %v, %b", tt.workload, tt.host, d.Verdict, d.Ways)
		}
	}
	if !p.Proxied() || compile(t, "rules: []").Proxied() {
		t.Error("whether addresses stand for names")
	}
	open := compile(t, "mode: observe\n"+upstreamRules)
	if d := open.DecideName("w", "only.example"); !d.Ways.Proxied() || !d.Ways.Resolved() {
		t.Errorf("in observe mode other requests go to the host itself: %b", d.Ways)
	}
}

// TestUpstreamDecision: the rule's own host is judged; of its addresses nothing
// needs to be known, and its targets' are judged by cidrs and private.
func TestUpstreamDecision(t *testing.T) {
	p := compile(t, upstreamRules)
	ask := func(host, path string) Decision {
		return p.Decide(&Query{Workload: "w", Host: host, Port: 443, Protocol: HTTPS, ByProxy: true, HTTP: &HTTPQuery{Method: "GET", Path: path}})
	}
	no := func(netip.Addr) bool { return false }
	for _, tt := range []struct{ host, path, rule, upstream string }{
		{"only.example", "/", "only", "u"}, {"mixed.example", "/u/1", "first", "u"}, {"mixed.example", "/", "plain", ""}, {"ranged.example", "/", "ranged", "u"},
	} {
		d := ask(tt.host, tt.path)
		if d.Verdict != Allow || d.Rule != tt.rule || d.Upstream != tt.upstream || d.Unresolved {
			t.Errorf("%s%s: %+v", tt.host, tt.path, d)
		}
	}
	for _, tt := range []struct {
		host, addr string
		want       bool
	}{
		{"only.example", "203.0.113.9", true}, {"only.example", "10.0.0.1", true}, {"only.example", "127.0.0.1", false}, {"only.example", "169.254.169.254", false},
		{"ranged.example", "203.0.113.9", true}, {"ranged.example", "198.51.100.1", false},
	} {
		d := ask(tt.host, "/")
		if got := d.Permits(netip.MustParseAddr(tt.addr), no); got != tt.want {
			t.Errorf("%s: %s permitted: %v", tt.host, tt.addr, got)
		}
	}
	// Without a request there is nothing to ask a target for.
	if d := p.Decide(&Query{Workload: "w", Host: "only.example", Port: 443, Protocol: TCP, ByProxy: true}); d.Verdict != Deny {
		t.Errorf("plain TCP: %+v", d)
	}
	if p.Tunnelable(&Query{Workload: "w", Host: "only.example", Port: 443, ByProxy: true}) {
		t.Error("it could pass unseen")
	}
	if c := p.DecideConn(&Query{Workload: "w", Host: "only.example", Port: 443, Protocol: HTTPS, ByProxy: true}); c.Action != InspectConn {
		t.Errorf("%+v", c)
	}
	for addr, want := range map[string]bool{"203.0.113.9": true, "10.0.0.1": true, "127.0.0.1": false} {
		if got := p.PermitsTarget("u", netip.MustParseAddr(addr), no); got != want {
			t.Errorf("a check of %s is permitted: %v", addr, got)
		}
	}
	if p.PermitsTarget("other", netip.MustParseAddr("203.0.113.9"), no) {
		t.Error("a check of an upstream that no rule has")
	}
	if d, ok := p.TargetRule("u"); !ok || d.Rule != "only" || d.Index != 1 {
		t.Errorf("%+v", d)
	}
}
