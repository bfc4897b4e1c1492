package policy

import (
	"net/netip"
	"testing"
)

// TestTunnelable: what may pass unseen after a client's alert, and what may not.
func TestTunnelable(t *testing.T) {
	for _, tt := range []struct {
		name, rules string
		want        bool
	}{
		{"a rule by host", `rules: [{name: a, match: {hosts: [api.example.com]}, action: allow}]`, true},
		{"a rule by host, port and workload", `
workloads: {w: {}}
rules: [{name: a, match: {workloads: [w], hosts: ["*.example.com"], ports: [443]}, action: allow}]`, true},
		{"a rule for all TLS", `rules: [{name: a, match: {protocols: [tls]}, action: allow}]`, true},
		{"a rule that tunnels anyway", `rules: [{name: a, match: {hosts: [api.example.com]}, action: allow, handling: tunnel}]`, true},
		{"the default", `default: allow`, true},
		{"a rule for addresses that fit", `rules: [{name: a, match: {hosts: [api.example.com], cidrs: [203.0.113.0/24]}, action: allow}]`, true},
		{"observe", "mode: observe", true},
		{"rules for others before it", `
rules:
  - {name: other, match: {hosts: [other.example.com], methods: [GET]}, action: allow}
  - {name: port, match: {hosts: [api.example.com], ports: [8443], paths: [/a]}, action: deny}
  - {name: a, match: {hosts: [api.example.com]}, action: allow}`, true},
		{"nothing allows it", `rules: [{name: a, match: {hosts: [other.example.com]}, action: allow}]`, false},
		{"denied", `rules: [{name: a, match: {hosts: [api.example.com]}, action: deny}]`, false},
		{"methods", `rules: [{name: a, match: {hosts: [api.example.com], methods: [GET]}, action: allow}]`, false},
		{"paths", `rules: [{name: a, match: {hosts: [api.example.com], paths: [/a/**]}, action: allow}]`, false},
		{"headers", `rules: [{name: a, match: {hosts: [api.example.com], headers: {Accept: "*"}}, action: allow}]`, false},
		{"paths of a rule that denies before it", `
rules:
  - {name: no, match: {hosts: [api.example.com], paths: [/admin/**]}, action: deny}
  - {name: a, match: {hosts: [api.example.com]}, action: allow}`, false},
		{"paths of a rule by wildcard before it", `
rules:
  - {name: no, match: {hosts: ["*"], methods: [DELETE]}, action: deny}
  - {name: a, match: {hosts: [api.example.com]}, action: allow}`, false},
		{"paths before the default", `
default: allow
rules: [{name: no, match: {paths: [/admin/**]}, action: deny}]`, false},
		{"a tunnel behind a rule with paths", `
rules:
  - {name: no, match: {hosts: [api.example.com], paths: [/admin/**]}, action: allow}
  - {name: a, match: {hosts: [api.example.com]}, action: allow, handling: tunnel}`, false},
		{"HTTPS alone, which must be seen to be that", `rules: [{name: a, match: {hosts: [api.example.com], protocols: [https]}, action: allow}]`, false},
		{"HTTPS by one rule, other TLS by another", `
rules:
  - {name: web, match: {hosts: [api.example.com], protocols: [https]}, action: allow}
  - {name: rest, match: {hosts: [api.example.com]}, action: allow}`, false},
		{"a certificate of ours", `rules: [{name: a, match: {hosts: [api.example.com]}, action: allow, upstream_tls: {cert: /c, key: /k}}]`, false},
		{"a stage that only looks", `rules: [{name: a, match: {hosts: [api.example.com]}, action: allow, secrets: report}]`, false},
		{"addresses that do not fit", `rules: [{name: a, match: {hosts: [api.example.com], cidrs: [192.0.2.0/24]}, action: allow}]`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, tt.rules)
			for _, protocol := range []Protocol{HTTPS, TLS} {
				q := Query{Workload: "w", Host: "api.example.com", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, Port: 443, Protocol: protocol}
				if got := p.Tunnelable(&q); got != tt.want {
					t.Errorf("%s: %v, want %v", protocol, got, tt.want)
				}
				if q.Protocol != protocol {
					t.Error("the query was changed")
				}
			}
		})
	}
	if (*Policy)(nil).Tunnelable(&Query{Host: "api.example.com"}) {
		t.Error("no policy lets a connection pass unseen")
	}
}

func TestDecisionTellsTheCertificate(t *testing.T) {
	p := compile(t, `
rules:
  - {name: a, match: {hosts: [api.example.com]}, action: allow, upstream_tls: {cert: /c, key: /k}}
  - {name: b, match: {hosts: [other.example.com]}, action: allow}`)
	for host, want := range map[string]string{"api.example.com": "/c", "other.example.com": ""} {
		d := p.Decide(&Query{Workload: "w", Host: host, Port: 443, Protocol: HTTPS, HTTP: &HTTPQuery{Method: "GET", Path: "/"}})
		if got := d.Certificate != nil; got != (want != "") || got && d.Certificate.Cert != want {
			t.Errorf("%s: %+v, want %q", host, d.Certificate, want)
		}
	}
}
