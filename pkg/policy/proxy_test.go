package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sallyport/pkg/policy/address"
)

const proxyHead = "workloads: { w: {} }\nupstream_proxy: { url: 'http://proxy:3128', no_proxy: [corp.example, .lab.example, 'ported.example:8443', 10.0.0.0/8, '192.0.2.7:80', 2001:db8::/32] }\nrules:\n"

// TestWayOut: which destinations go by the proxy, as users of NO_PROXY expect.
func TestWayOut(t *testing.T) {
	p := compile(t, proxyHead+`
  - { name: own, match: { hosts: [own.example] }, action: allow, upstream_proxy: { url: "https://own" } }
  - { name: none, match: { hosts: [none.example] }, action: allow, upstream_proxy: { url: "" } }
  - { name: any, action: allow }
`)
	const file = "http://proxy:3128"
	for _, tt := range []struct {
		host, addr string
		port       uint16
		want       string
	}{
		{"api.example", "", 443, file},
		{"corp.example", "", 443, ""}, {"a.b.corp.example", "", 443, ""}, {"notcorp.example", "", 443, file},
		{"lab.example", "", 443, file}, {"a.lab.example", "", 443, ""},
		{"ported.example", "", 8443, ""}, {"ported.example", "", 443, file},
		{"localhost", "", 443, ""}, {"a.localhost", "", 443, ""}, {"localhost.example", "", 443, file},
		{"own.example", "", 443, "https://own:443"}, {"none.example", "", 443, ""},
		{"", "203.0.113.1", 443, file}, {"203.0.113.1", "", 443, file}, {"", "10.1.2.3", 443, ""}, {"10.1.2.3", "", 443, ""},
		{"", "::ffff:10.1.2.3", 443, ""}, {"", "192.0.2.7", 80, ""}, {"", "192.0.2.7", 81, file},
		{"", "2001:db8::1", 443, ""}, {"2001:db8::1", "", 443, ""}, {"", "2001:db9::1", 443, file},
		// The proxy would take these for its own.
		{"", "127.0.0.1", 443, ""}, {"127.0.0.1", "", 443, ""}, {"", "::1", 443, ""}, {"", "0.0.0.0", 443, ""}, {"", "169.254.169.254", 443, ""},
		{"", "fe80::1", 443, ""}, {"", "224.0.0.1", 443, ""}, {"", "::ffff:127.0.0.1", 443, ""},
	} {
		q := &Query{Workload: "w", Host: tt.host, Port: tt.port, Protocol: HTTPS, HTTP: &HTTPQuery{Method: "GET", Path: "/"}}
		if tt.addr != "" {
			q.Addrs = addrs(tt.addr)
		}
		d := p.Decide(q)
		if got := d.Proxy.URL(); got != tt.want || d.Verdict != Allow {
			t.Errorf("%s%s:%d: %v by %q, want %q", tt.host, tt.addr, tt.port, d.Verdict, got, tt.want)
		}
		q.HTTP = nil
		if c := p.DecideConn(q); c.Rule != "" && c.Proxy.URL() != tt.want {
			t.Errorf("connection to %s%s:%d: by %q, want %q", tt.host, tt.addr, tt.port, c.Proxy.URL(), tt.want)
		}
	}
	everything := compile(t, "upstream_proxy: { url: http://p, no_proxy: ['*:25', a.example] }\nrules: [{ name: r, action: allow }]")
	if d := everything.Decide(&Query{Workload: "w", Host: "x.example", Port: 25, Protocol: TCP}); d.Proxy != nil {
		t.Error("*:25 does not hold")
	}
	if d := everything.Decide(&Query{Workload: "w", Host: "x.example", Port: 26, Protocol: TCP}); d.Proxy == nil {
		t.Error("*:25 holds for other ports")
	}
}

// TestWays: what must be known of a name before it is resolved.
func TestWays(t *testing.T) {
	p := compile(t, proxyHead+`
  - { name: mixed-a, match: { hosts: [mixed.example], paths: [/a] }, action: allow }
  - { name: mixed-b, match: { hosts: [mixed.example], paths: [/b] }, action: allow, upstream_proxy: { url: "" } }
  - { name: denied, match: { hosts: [denied.example] }, action: deny }
  - { name: none, match: { hosts: [none.example] }, action: allow, upstream_proxy: { url: "" } }
  - { name: shadowed, match: { hosts: [one.example] }, action: allow }
  - { name: shadow, match: { hosts: [one.example] }, action: allow, upstream_proxy: { url: "" } }
  - { name: listed, match: { hosts: ["*.example"] }, action: allow }
`)
	for host, want := range map[string]Ways{
		"api.example": ProxyWay, "corp.example": DirectWay, "x.lab.example": DirectWay, "lab.example": ProxyWay,
		"ported.example": DirectWay | ProxyWay, "none.example": DirectWay, "mixed.example": DirectWay | ProxyWay,
		"one.example": ProxyWay, "denied.example": 0,
	} {
		d := p.DecideName("w", host)
		if d.Ways != want || d.Verdict.Passes() != (host != "denied.example") {
			t.Errorf("%s: %v, ways %b, want %b", host, d.Verdict, d.Ways, want)
		}
	}
	if d := p.DecideName("w", "unlisted.test"); d.Verdict.Passes() {
		t.Error("an unlisted name may be resolved")
	}
	if d := p.DecideName("w", "proxy"); !d.Verdict.Passes() || d.Ways != DirectWay {
		t.Errorf("the proxy's own name: %v, ways %b", d.Verdict, d.Ways)
	}
	if d := p.Decide(get("proxy", "/")); d.Verdict.Passes() {
		t.Error("the proxy itself may be spoken to")
	}
	direct := compile(t, "rules: [{ name: r, match: { hosts: [a.example] }, action: allow }]")
	if d := direct.DecideName("w", "a.example"); d.Ways.Proxied() || !d.Ways.Resolved() || direct.Proxied() {
		t.Errorf("without a proxy: ways %b", d.Ways)
	}
	observe := compile(t, "mode: observe\nupstream_proxy: { url: http://p }\n")
	if d := observe.DecideName("w", "a.example"); d.Ways != ProxyWay || !d.Verdict.Passes() {
		t.Errorf("what is only observed: %v, ways %b", d.Verdict, d.Ways)
	}
}

// TestUnjudgedAddresses: of a name that a proxy resolves no address is known: a
// rule with cidrs that allows does not match, one that denies does.
func TestUnjudgedAddresses(t *testing.T) {
	const rules = `
  - { name: by-address, match: { cidrs: [192.0.2.0/24], protocols: [tcp] }, action: allow, handling: direct }
  - { name: allow-net, match: { hosts: [a.example, corp.example], cidrs: [203.0.113.0/24] }, action: allow }
  - { name: deny-net, match: { hosts: [b.example, corp.example], cidrs: [10.0.0.0/8] }, action: deny }
  - { name: tunnel, match: { hosts: [a.example, b.example, corp.example] }, action: allow, handling: tunnel }
`
	p := compile(t, strings.Replace(proxyHead, "10.0.0.0/8", "198.51.100.0/24", 1)+rules)
	for _, tt := range []struct {
		q          *Query
		want       string
		verdict    Verdict
		action     ConnAction
		unresolved bool
	}{
		{&Query{Host: "a.example", ByProxy: true}, "tunnel", Allow, TunnelConn, false},
		{&Query{Host: "b.example", ByProxy: true}, "deny-net", Deny, Refuse, false},
		// Resolved for another rule: the proxy will resolve it anew all the same.
		{&Query{Host: "a.example", Addrs: addrs("203.0.113.9")}, "tunnel", Allow, TunnelConn, false},
		{&Query{Host: "b.example", Addrs: addrs("10.0.0.9")}, "deny-net", Deny, Refuse, false},
		{&Query{Host: "b.example", Addrs: addrs("203.0.113.9")}, "tunnel", Allow, TunnelConn, false},
		// A name of no_proxy is judged as ever.
		{&Query{Host: "corp.example", Addrs: addrs("203.0.113.9")}, "allow-net", Allow, InspectConn, false},
		{&Query{Host: "corp.example", Addrs: addrs("10.0.0.9")}, "deny-net", Deny, Refuse, false},
		{&Query{Host: "corp.example"}, "deny-net", Deny, InspectConn, true},
		{&Query{Host: "", Addrs: addrs("192.0.2.9")}, "by-address", Allow, TunnelConn, false},
	} {
		tt.q.Workload, tt.q.Port, tt.q.Protocol = "w", 443, TLS
		d := p.Decide(tt.q)
		if d.Rule != tt.want || d.Verdict != tt.verdict || d.Unresolved != tt.unresolved {
			t.Errorf("%+v: %v by %q, unresolved %v", *tt.q, d.Verdict, d.Rule, d.Unresolved)
		}
		if c := p.DecideConn(tt.q); c.Action != tt.action || c.Unresolved != tt.unresolved {
			t.Errorf("connection %+v: %v by %q, unresolved %v", *tt.q, c.Action, c.Rule, c.Unresolved)
		}
	}
	e := p.Explain(&Query{Workload: "w", Host: "a.example", Port: 443, Protocol: TLS, ByProxy: true})
	if !strings.Contains(fmt.Sprint(e.Steps), "goes by an upstream proxy") {
		t.Errorf("nobody is told why: %v", e.Steps)
	}
}

// TestDirectRulesLeaveNames: an address that stands for a name must reach the
// proxy, whatever the kernel may let through.
func TestDirectRulesLeaveNames(t *testing.T) {
	const rule = "rules: [{ name: d, match: { cidrs: [0.0.0.0/0, '::/0', 198.0.0.0/8, '2001::/16'] }, action: allow, handling: direct }]\n"
	covers := func(p *Policy, addr string) bool {
		for _, d := range p.DirectRules("w", nil) {
			if d.Prefix.Contains(netip.MustParseAddr(addr)) {
				return true
			}
		}
		return false
	}
	with, without := compile(t, "upstream_proxy: { url: http://p }\n"+rule), compile(t, rule)
	for _, a := range []string{"198.18.0.1", "198.19.255.254", "198.18.5.5", "2001:2::1", "2001:2:0:ffff::1"} {
		if covers(with, a) {
			t.Errorf("the kernel lets %s through", a)
		}
		if !covers(without, a) {
			t.Errorf("without a proxy %s is no ordinary address", a)
		}
	}
	for _, a := range []string{"198.17.255.255", "198.20.0.0", "2001:1::1", "2001:2:1::1", "203.0.113.1"} {
		if !covers(with, a) {
			t.Errorf("%s is held back", a)
		}
	}
}

func TestSyntheticAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"198.18.0.0": true, "198.19.255.255": true, "198.17.255.255": false, "198.20.0.0": false, "::ffff:198.18.0.1": true,
		"2001:2::": true, "2001:2:0:ffff::": true, "2001:2:1::": false, "64:ff9b::c612:1": true, "2002:c612:1::1": true, "203.0.113.1": false,
	} {
		if got := address.IsSynthetic(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// BenchmarkDecideProxied has a no_proxy of the size that companies have.
func BenchmarkDecideProxied(b *testing.B) {
	var entries []string
	for i := range 100 {
		entries = append(entries, fmt.Sprintf("n%d.corp.example", i), fmt.Sprintf("10.%d.0.0/16", i))
	}
	p := compile(b, "upstream_proxy: { url: http://p, no_proxy: ["+strings.Join(entries, ", ")+"] }\nrules: [{ name: r, match: { hosts: [api.example.com] }, action: allow }]")
	q := get("api.example.com", "/")
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(q)
	}
}

func TestProxiedDecisionsDoNotAllocate(t *testing.T) {
	p := compile(t, proxyHead+"  - { name: any, action: allow }\n")
	for _, q := range []*Query{get("api.example", "/"), get("203.0.113.1", "/"), with(get("", "/"), func(q *Query) { q.HTTP = nil })} {
		if n := testing.AllocsPerRun(100, func() { p.Decide(q); p.DecideConn(q); p.DecideName("w", q.Host) }); n != 0 {
			t.Errorf("%s: %v allocations", q.Host, n)
		}
	}
}
