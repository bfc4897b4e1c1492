package policy

import (
	"net/netip"
	"slices"
	"testing"
)

func TestDecideConn(t *testing.T) {
	const tail = `
  - { name: pinned, match: { hosts: [pin.example] }, action: allow, handling: tunnel }
`
	tests := []struct {
		name  string
		rules string
		q     Query
		want  ConnAction
		rule  string
		// reason of a refusal.
		reason Reason
	}{
		{"tunnel", tail, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "pinned", NoReason},
		{"inspect", `  - { name: a, match: { hosts: [pin.example] }, action: allow }`, Query{Host: "pin.example", Protocol: HTTPS}, InspectConn, "a", NoReason},
		{"no rule", tail, Query{Host: "x.example", Protocol: HTTPS}, Refuse, "", NoRule},
		{"denied", `  - { name: a, match: { hosts: [pin.example] }, action: deny }`, Query{Host: "pin.example", Protocol: HTTPS}, Refuse, "a", RuleDenied},
		{"an earlier rule needs the request", `  - { name: a, match: { hosts: [pin.example], methods: [DELETE] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: HTTPS}, InspectConn, "", NoReason},
		{"an earlier rule of another host", `  - { name: a, match: { hosts: [y.example], methods: [DELETE] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "pinned", NoReason},
		{"an earlier rule of another port", `  - { name: a, match: { ports: [80], methods: [DELETE] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "pinned", NoReason},
		{"an earlier rule of another workload", `  - { name: a, match: { workloads: [v], methods: [DELETE] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "pinned", NoReason},
		{"an earlier rule of another protocol", `  - { name: a, match: { protocols: [http], methods: [DELETE] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "pinned", NoReason},
		{"a later rule needs the request", tail + `  - { name: a, match: { hosts: [pin.example], methods: [DELETE] }, action: deny }`, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "pinned", NoReason},
		{"only requests could be allowed", `  - { name: a, match: { hosts: [pin.example], methods: [GET] }, action: allow }`, Query{Host: "pin.example", Protocol: HTTPS}, InspectConn, "", NoReason},
		{"nothing could be allowed", `  - { name: a, match: { hosts: [pin.example], methods: [GET] }, action: deny }`, Query{Host: "pin.example", Protocol: HTTPS}, Refuse, "", NoRule},
		{"request rule on other TCP", `  - { name: a, match: { hosts: [pin.example], methods: [GET] }, action: allow }`, Query{Host: "pin.example", Protocol: TCP}, Refuse, "", NoRule},
		{"request deny on other TCP", `  - { name: a, match: { hosts: [pin.example], paths: [/x] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: TCP}, Refuse, "a", RuleDenied},
		{"request deny for HTTP on other TCP", `  - { name: a, match: { hosts: [pin.example], protocols: [http, https], paths: [/x] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: TCP}, TunnelConn, "pinned", NoReason},
		{"request rule on other TLS", `  - { name: a, match: { hosts: [pin.example], paths: [/x] }, action: deny }` + tail, Query{Host: "pin.example", Protocol: TLS}, InspectConn, "", NoReason},
		{"other TCP has nothing to inspect", `  - { name: a, match: { hosts: [pin.example] }, action: allow }`, Query{Host: "pin.example", Protocol: TCP}, TunnelConn, "a", NoReason},
		{"not sniffed, tunnel whatever it is", tail, Query{Host: "pin.example"}, TunnelConn, "pinned", NoReason},
		{"not sniffed, a rule for https", `  - { name: a, match: { hosts: [pin.example], protocols: [https] }, action: deny }` + tail, Query{Host: "pin.example"}, InspectConn, "", NoReason},
		{"not sniffed, only https allowed", `  - { name: a, match: { hosts: [pin.example], protocols: [https] }, action: allow }`, Query{Host: "pin.example"}, InspectConn, "", NoReason},
		{"https rule and tunnel", `  - { name: a, match: { hosts: [pin.example], protocols: [https] }, action: allow, handling: tunnel }`, Query{Host: "pin.example", Protocol: HTTPS}, TunnelConn, "a", NoReason},
		{"https rule and other TLS", `  - { name: a, match: { hosts: [pin.example], protocols: [https] }, action: allow, handling: tunnel }`, Query{Host: "pin.example", Protocol: TLS}, Refuse, "", NoRule},
		{"no name, a request may bring it", tail, Query{Protocol: HTTPS}, InspectConn, "", NoReason},
		{"no name, an earlier rule has hosts", `  - { name: a, match: { hosts: [y.example] }, action: deny }` + `
  - { name: net, match: { cidrs: [203.0.113.0/24] }, action: allow, handling: tunnel }`, Query{Protocol: HTTPS}, InspectConn, "", NoReason},
		{"no name on other TCP", tail, Query{Protocol: TCP}, Refuse, "", NoRule},
		{"no name on other TCP, by address", `  - { name: net, match: { cidrs: [203.0.113.0/24] }, action: allow }`, Query{Protocol: TCP}, TunnelConn, "net", NoReason},
		{"direct, met by the proxy", `  - { name: net, match: { cidrs: [203.0.113.0/24] }, action: allow, handling: direct }`, Query{Protocol: HTTPS}, TunnelConn, "net", NoReason},
		{"a stage that binds", `  - { name: a, match: { hosts: [pin.example] }, action: allow, rate_limit: { minute: 1 } }`, Query{Host: "pin.example", Protocol: HTTPS}, InspectConn, "", NoReason},
		{"a stage that binds on other TCP", `  - { name: a, match: { hosts: [pin.example] }, action: allow, secrets: block }`, Query{Host: "pin.example", Protocol: TCP}, Refuse, "", NoRule},
		{"a stage that binds, then a tunnel for other TCP", `  - { name: a, match: { hosts: [pin.example] }, action: allow, size_limit: { request: 1MB } }` + tail, Query{Host: "pin.example", Protocol: TCP}, TunnelConn, "pinned", NoReason},
		{"a stage that looks on", `  - { name: a, match: { hosts: [pin.example] }, action: allow, secrets: report }`, Query{Host: "pin.example", Protocol: TCP}, TunnelConn, "a", NoReason},
		{"UDP", tail, Query{Host: "pin.example", Protocol: UDP}, Refuse, "", NoRule},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := tt.q
			q.Workload, q.Port, q.Addrs = "w", 443, addrs("203.0.113.1")
			d := compile(t, rulesHead+tt.rules).DecideConn(&q)
			if d.Action != tt.want || d.Rule != tt.rule || d.Reason != tt.reason || d.Verdict.Passes() != (tt.want != Refuse) {
				t.Errorf("action %d by %q, %v (%v); want %d by %q (%v)", d.Action, d.Rule, d.Verdict, d.Reason, tt.want, tt.rule, tt.reason)
			}
		})
	}
}

func TestDecideConnInObserveMode(t *testing.T) {
	p := compile(t, "mode: observe\nrules: [{ name: a, match: { hosts: [h.example] }, action: deny }]\n")
	for _, tt := range []struct {
		q    Query
		want ConnAction
		rule string
	}{
		{Query{Host: "h.example", Protocol: HTTPS}, InspectConn, "a"},
		{Query{Host: "x.example", Protocol: HTTPS}, InspectConn, ""},
		{Query{Host: "x.example", Protocol: TCP}, TunnelConn, ""},
	} {
		tt.q.Addrs = addrs("203.0.113.1")
		if d := p.DecideConn(&tt.q); d.Action != tt.want || d.Rule != tt.rule || d.Verdict != WouldDeny {
			t.Errorf("%+v: action %d by %q, %v", tt.q, d.Action, d.Rule, d.Verdict)
		}
	}
}

func TestDecideName(t *testing.T) {
	rules := rulesHead + `
  - { name: no-a, match: { hosts: [no.example] }, action: deny }
  - { name: no-ports, match: { hosts: [some.example], ports: [80] }, action: deny }
  - { name: some, match: { hosts: [some.example, no.example] }, action: allow }
  - { name: request, match: { hosts: [req.example], methods: [GET] }, action: allow }
  - { name: v, match: { workloads: [v], hosts: [v.example] }, action: allow }
  - { name: net, match: { cidrs: [198.51.100.0/24] }, action: allow }
  - { name: below, match: { hosts: ["*.cdn.example"] }, action: allow }
`
	p := compile(t, rules)
	tests := []struct {
		host, rule string
		reason     Reason
	}{
		{"some.example", "some", NoReason},
		{"no.example", "no-a", RuleDenied},
		{"req.example", "request", NoReason},
		{"v.example", "", NoRule},
		{"a.cdn.example", "below", NoReason},
		{"cdn.example", "", NoRule},
		// A rule with cidrs and no hosts lists no name: else any name could
		// carry data out as a question.
		{"exfiltrated-data.evil.example", "", NoRule},
		{"", "", NoRule},
	}
	for _, tt := range tests {
		if d := p.DecideName("w", tt.host); d.Rule != tt.rule || d.Reason != tt.reason || d.Verdict.Passes() != (tt.reason == NoReason) {
			t.Errorf("%q: %v by %q (%v), want %q (%v)", tt.host, d.Verdict, d.Rule, d.Reason, tt.rule, tt.reason)
		}
	}
	if d := p.DecideName("v", "v.example"); d.Verdict != Allow {
		t.Errorf("v.example for v: %v", d.Verdict)
	}
	if d := p.DecideName("v", "other.example"); d.Verdict != WouldDeny || d.Reason != NoRule {
		t.Errorf("unlisted for an observed workload: %v", d.Verdict)
	}
	p = compile(t, "dns: { allow_unlisted: true }\n"+rules)
	if d := p.DecideName("w", "other.example"); d.Verdict != Allow || d.Reason != NoReason {
		t.Errorf("allow_unlisted: %v", d.Verdict)
	}
	if d := p.DecideName("w", "no.example"); d.Verdict != Deny {
		t.Errorf("allow_unlisted: a denied name is %v", d.Verdict)
	}
	p = compile(t, "rules:\n- { name: all, match: { ports: [443] }, action: allow }\n")
	if d := p.DecideName("w", "any.example"); d.Rule != "all" {
		t.Errorf("a rule for any host: %v", d.Verdict)
	}
	p = compile(t, "rules:\n- { name: seen, match: { hosts: [h.example], methods: [PUT] }, action: deny, mode: observe }\n")
	if d := p.DecideName("w", "h.example"); d.Verdict != Allow {
		t.Errorf("a deny rule that only observes: %v", d.Verdict)
	}
}

func TestDirectRules(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: db, match: { workloads: [w], cidrs: [10.1.0.0/16], ports: [5432, "6000-6010"] }, action: allow, handling: direct }
  - { name: ntp, match: { cidrs: [192.0.2.0/24], ports: [123], protocols: [udp] }, action: allow, handling: direct }
  - { name: wide, match: { workloads: [v], cidrs: [0.0.0.0/0], protocols: [tcp, udp] }, action: allow, handling: direct }
  - { name: not, match: { hosts: [a.example] }, action: allow, handling: tunnel }
`)
	own := addrs("10.1.0.1", "192.0.2.77", "127.0.0.1")
	find := func(workload, addr string, port uint16, protocol Protocol) string {
		for _, r := range p.DirectRules(workload, own) {
			if r.Prefix.Contains(netip.MustParseAddr(addr)) && r.First <= port && port <= r.Last && r.Protocol == protocol {
				return r.Rule
			}
		}
		return ""
	}
	tests := []struct {
		workload, addr string
		port           uint16
		protocol       Protocol
		want           string
	}{
		{"w", "10.1.2.3", 5432, TCP, "db"},
		{"w", "10.1.2.3", 6005, TCP, "db"},
		{"w", "10.1.2.3", 5432, UDP, ""},
		{"w", "10.1.2.3", 5433, TCP, ""},
		{"w", "10.2.2.3", 5432, TCP, ""},
		{"w", "10.1.0.1", 5432, TCP, ""}, // the host's own
		{"w", "192.0.2.1", 123, UDP, "ntp"},
		{"w", "192.0.2.1", 123, TCP, ""},
		{"w", "192.0.2.77", 123, UDP, ""},
		{"v", "10.1.2.3", 5432, TCP, ""},
		{"v", "203.0.113.1", 1, TCP, "wide"},
		{"v", "203.0.113.1", 65535, UDP, "wide"},
		{"v", "127.0.0.1", 80, TCP, ""},
		{"v", "10.0.0.1", 80, TCP, ""},
		{"v", "169.254.169.254", 80, TCP, ""},
		{"v", "255.255.255.255", 80, UDP, ""},
		{"x", "192.0.2.1", 123, UDP, "ntp"},
		{"x", "203.0.113.1", 80, TCP, ""},
	}
	for _, tt := range tests {
		if got := find(tt.workload, tt.addr, tt.port, tt.protocol); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
	if all := p.DirectRules("v", own); len(all) > 200 {
		t.Errorf("%d rules", len(all))
	}
	if d := p.Decide(&Query{Workload: "w", Addrs: addrs("192.0.2.1"), Port: 123, Protocol: UDP}); d.Verdict != Allow || d.Rule != "ntp" {
		t.Errorf("%v by %q", d.Verdict, d.Rule)
	}
	names := []string{}
	for _, r := range p.DirectRules("w", nil) {
		names = append(names, r.Rule)
	}
	if !slices.IsSortedFunc(names, func(a, b string) int {
		return slices.Index([]string{"db", "ntp"}, a) - slices.Index([]string{"db", "ntp"}, b)
	}) {
		t.Errorf("not in rule order: %v", names)
	}
}
