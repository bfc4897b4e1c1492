package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestWarnings(t *testing.T) {
	rules := func(match ...string) string {
		text := "workloads: { w: {}, v: {} }\nrules:\n"
		for i, m := range match {
			action := "allow"
			if strings.HasPrefix(m, "deny ") {
				m, action = m[5:], "deny"
			}
			text += fmt.Sprintf("  - { name: r%d, action: %s, %s }\n", i, action, m)
		}
		return text
	}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"extensions", "x-a: 1\n", ""},
		{"a workload that nothing is allowed", "workloads: { w: {}, v: {} }\nrules: [{ name: a, match: { workloads: w }, action: allow }]\n", `f:1:21: no rule allows workload "v" anything`},
		{"only denied", "workloads: { w: {} }\nrules: [{ name: a, match: { workloads: w }, action: deny }]\n", `f:1:14: no rule allows workload "w" anything`},
		{"by a glob", "workloads: { w1: {} }\nrules: [{ name: a, match: { workloads: 'w*' }, action: allow }]\n", ""},
		{"by a rule for all", "workloads: { w: {} }\nrules: [{ name: a, match: { hosts: b.example }, action: allow }]\n", ""},
		{"by the default", "default: allow\nworkloads: { w: {} }\n", ""},

		{"variables", rules("match: {}, headers: { request: { set: { X-A: '{client_ip} {path}, $5 {\"a\":1}' } } }"), ""},
		{"a variable of nginx", rules("match: {}, headers: { request: { add: { X-A: '{client_ip} $remote_addr' } } }"), `f:3:43: rule "r0" sends $remote_addr in X-A as it is written: variables are {workload} `},
		{"a variable that is none", rules("match: {}, headers: { response: { set: { X-A: '{request_id}' } } }"), `sends {request_id} in X-A`},
		{"the same", rules("match: { hosts: a.example }", "match: { hosts: a.example }"), `f:4:5: rule "r1" is never reached: rule "r0" at f:3:5 comes first and holds wherever it does`},
		{"a rule for all", rules("deny private: []", "match: { hosts: a.example, ports: 443 }"), "r1"},
		{"a wildcard", rules("match: { hosts: '*.example' }", "match: { hosts: [a.example, '*.b.example'] }"), "r1"},
		{"any name", rules("match: { hosts: '*' }", "match: { hosts: '*.example' }"), "r1"},
		{"not the apex", rules("match: { hosts: '*.example' }", "match: { hosts: example }"), ""},
		{"not an address", rules("match: { hosts: '*' }", "match: { hosts: 192.0.2.1 }"), ""},
		{"one host of two", rules("match: { hosts: a.example }", "match: { hosts: [a.example, b.example] }"), ""},
		{"another method", rules("match: { hosts: a.example, methods: GET, protocols: [https] }", "match: { hosts: a.example, methods: [GET, POST], protocols: [https] }"), ""},
		{"fewer methods", rules("match: { hosts: a.example, methods: [GET, 'P*'], protocols: [https] }", "match: { hosts: a.example, methods: [POST], protocols: [https] }"), "r1"},
		{"methods, and what is no HTTP", rules("match: { hosts: a.example, methods: '*' }", "match: { hosts: a.example }"), ""},
		{"stages, and what is no HTTP", rules("match: { hosts: a.example }, secrets: block", "match: { hosts: a.example }, handling: tunnel"), ""},
		{"stages, and HTTP", rules("match: { hosts: a.example }, secrets: block", "match: { hosts: a.example, protocols: [http, https] }"), "r1"},
		{"ports", rules("match: { ports: ['1-1000'] }", "match: { ports: [80, 443] }"), "r1"},
		{"another port", rules("match: { ports: ['1-1000'] }", "match: { ports: [80, 8080] }"), ""},
		{"prefixes", rules("match: { cidrs: 192.0.2.0/24 }", "match: { cidrs: 192.0.2.128/25 }"), "r1"},
		{"a wider prefix", rules("match: { cidrs: 192.0.2.0/24 }", "match: { cidrs: 192.0.0.0/16 }"), ""},
		{"all paths", rules("match: { paths: /** }", "match: { paths: [/a, /b/**], protocols: [http, https] }"), "r1"},
		{"another path", rules("match: { paths: /a/** }", "match: { paths: /b, protocols: [http, https] }"), ""},
		{"all paths but *", rules("match: { paths: /** }", "match: { paths: '**', protocols: [https] }"), ""},
		{"all paths but those with %2F", rules("match: { paths: /** }", "match: { paths: /a%2fb, protocols: [https] }"), ""},
		{"all paths are refused", rules("deny match: { paths: /** }", "match: { paths: /a%2fb, protocols: [https] }"), "r1"},
		{"a refusal takes more of a path", rules("match: { paths: /a }", "deny match: { paths: /a, protocols: [https] }"), ""},
		{"a refusal takes more of a method", rules("match: { methods: GET }", "deny match: { methods: GET, protocols: [https] }"), ""},
		{"a refusal takes more of a field", rules("match: { headers: { a: b } }", "deny match: { headers: { a: b }, protocols: [https] }"), ""},
		{"a refusal takes more of an address", rules("match: { cidrs: 192.0.2.0/24 }", "deny match: { cidrs: 192.0.2.1 }"), ""},
		{"an allowance after a refusal", rules("deny match: { paths: /a }", "match: { paths: /a, protocols: [https] }"), "r1"},
		{"a refusal of what is allowed at all", rules("match: { hosts: a.example }", "deny match: { hosts: a.example, paths: /a }"), "r1"},
		{"headers", rules("match: { headers: { a: '*' } }", "match: { headers: { a: b, c: d }, protocols: [https] }"), "r1"},
		{"a header less", rules("match: { headers: { a: b, c: d } }", "match: { headers: { a: b }, protocols: [https] }"), ""},
		{"workloads", rules("match: { workloads: '*' }", "match: { workloads: w }"), "r1"},
		{"another workload", rules("match: { workloads: v }", "match: { workloads: [w, v] }"), ""},
		{"all workloads", rules("match: { workloads: [w, v] }", "match: { hosts: a.example }"), ""},
		{"a condition", rules("match: { hosts: a.example, when: 'request.method == \"GET\"' }", "match: { hosts: a.example, protocols: [https] }"), ""},
		{"within a condition's reach", rules("match: { hosts: a.example, protocols: [https] }", "match: { hosts: a.example, protocols: [https], when: 'request.method == \"GET\"' }"), "r1"},
		{"addresses of targets", "upstreams: { u: { targets: { target: 'b.example:443' } } }\n" + rules("match: { hosts: a.example, cidrs: 192.0.2.0/24, protocols: [https] }", "match: { hosts: a.example, cidrs: 192.0.2.1, protocols: [https] }, upstream: u"), ""},
		{"UDP", rules("match: { cidrs: 192.0.2.0/24 }", "match: { cidrs: 192.0.2.1, protocols: udp }, handling: direct"), ""},

		{"stages of a rule for other protocols", rules("match: { hosts: a.example, protocols: [tcp] }, size_limit: { request: 1MB }"), `f:3:59: rule "r0" allows HTTP only`},
		{"stages that look on", rules("match: { hosts: a.example, protocols: [tcp] }, secrets: report"), ""},
		{"redis that is nowhere", rules("match: { hosts: a.example }, rate_limit: { minute: 1, policy: redis }"), `rule "r0" counts in redis, and there is no key redis: it is looked for at 127.0.0.1:6379`},
		{"redis", "redis: {}\n" + rules("match: { hosts: a.example }, rate_limit: { minute: 1, policy: redis }"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := Check([]File{{"f", []byte(tt.text)}})
			if err != nil {
				t.Fatal(err)
			}
			got := warnings.Error()
			if len(warnings) > 1 || tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNoWarningsWhereErrorsAre(t *testing.T) {
	_, warnings, err := Check([]File{{"f", []byte("workloads: { w: {} }\nmode: x\n")}})
	if err == nil || warnings != nil {
		t.Errorf("%v, %v", warnings, err)
	}
}

// TestWarningsOfManyRules are told in time.
func TestWarningsOfManyRules(t *testing.T) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 20_000 {
		fmt.Fprintf(&b, "  - { name: r%d, match: { hosts: [h%d.example.com] }, action: allow }\n", i, i)
	}
	start := time.Now()
	if _, warnings, err := Check([]File{{"f", []byte(b.String())}}); err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}
