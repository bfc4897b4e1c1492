package policy

import "testing"

func TestProspect(t *testing.T) {
	const allow = `
  - { name: reads, match: { hosts: [a.example], methods: [GET] }, action: allow }
`
	for _, tt := range []struct {
		name, rules, host, want string
		ok                      bool
	}{
		{"a request could pass", allow, "a.example", "reads", true},
		{"none could", allow, "b.example", "", false},
		{"a deny of some requests before it", `  - { name: d, match: { hosts: [a.example], methods: [DELETE] }, action: deny }` + allow, "a.example", "reads", true},
		{"a deny of everything before it", `  - { name: d, match: { hosts: [a.example] }, action: deny }` + allow, "a.example", "", false},
		{"a deny of another address before it", `  - { name: d, match: { hosts: [a.example], cidrs: [192.0.2.0/24] }, action: deny }` + allow, "a.example", "reads", true},
		{"a deny of its address before it", `  - { name: d, match: { hosts: [a.example], cidrs: [203.0.113.0/24] }, action: deny }` + allow, "a.example", "", false},
		{"a deny that only observes", `  - { name: d, match: { hosts: [a.example] }, action: deny, mode: observe }` + allow, "a.example", "d", true},
		{"an allow of another address", `  - { name: n, match: { hosts: [a.example], cidrs: [192.0.2.0/24] }, action: allow }`, "a.example", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, ok := compile(t, rulesHead+tt.rules).Prospect(&Query{
				Workload: "w", Host: tt.host, Port: 443, Protocol: HTTPS, Addrs: addrs("203.0.113.1"),
			})
			if ok != tt.ok || d.Rule != tt.want || ok != d.Verdict.Passes() {
				t.Errorf("%q, %v (%v); want %q, %v", d.Rule, ok, d.Verdict, tt.want, tt.ok)
			}
		})
	}
	var none *Policy
	if _, ok := none.Prospect(&Query{}); ok {
		t.Error("without a policy something could pass")
	}
}
