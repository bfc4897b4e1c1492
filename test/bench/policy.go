package main

import (
	"bytes"
	"fmt"
)

// The sizes of the policy; the rules that match are the last ones.
const (
	fewRules  = 100
	manyRules = 10_000
)

// What a `direct` rule lets by, and nothing else does.
const directPort = 8080

// controls are what a rule may ask for beside its match: limits that nobody
// reaches, and changes of headers both ways.
const controls = `rate_limit: { second: 1000000, minute: 10000000, hour: 100000000 }, size_limit: { request: 1MB, response: 1GB }, ` +
	`headers: { request: { set: { X-Team: bench }, remove: [X-Unwanted] }, response: { set: { X-Gate: bench }, remove: [X-Powered-By] } }`

// policyText is a configuration with audit and metrics on.
func policyText(name string, rules int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `version: 1
mode: enforce
slice: %[1]s.slice
nft_table: %[1]s
bpf_dir: /srv/bpf/%[1]s
state_dir: /var/lib/%[1]s
runtime_dir: /run/%[1]s
listen: { tcp: 0, dns: 0 }
audit: { file: { path: /var/log/%[1]s/audit.jsonl } }
rules:
`, name)
	const matching = 6
	for i := range rules - matching {
		fmt.Fprintf(&b, "  - { name: rule-%d, match: { hosts: [", i)
		if i%5 == 0 {
			fmt.Fprintf(&b, `"*.zone%d.example.net"`, i)
		} else {
			fmt.Fprintf(&b, `api%d.example.net`, i)
		}
		b.WriteString("], ports: [443]")
		if i%3 == 0 {
			b.WriteString(`, methods: [GET, POST], paths: ["/v1/**", "/v2/*/items"]`)
		}
		b.WriteString(" }, action: allow }\n")
	}
	fmt.Fprintf(&b, "  - { name: new-names, match: { hosts: [\"*%s\"], ports: [443], methods: [GET], paths: [/small] }, action: allow }\n", firstSuffix)
	fmt.Fprintf(&b, "  - { name: controlled, match: { hosts: [%s], ports: [443], methods: [GET], paths: [/small] }, action: allow, %s }\n", controlledName, controls)
	fmt.Fprintf(&b, "  - { name: cached, match: { hosts: [%s], ports: [443], methods: [GET], paths: [/small, /page] }, action: allow, cache: { ttl: 1h } }\n", cachedName)
	fmt.Fprintf(&b, "  - { name: inspected, match: { hosts: [%s, %s, %s], ports: [443], methods: [GET], paths: [/small, /page, /large, /events] }, action: allow }\n", inspectName, h2Name, eventsName)
	fmt.Fprintf(&b, "  - { name: tunnelled, match: { hosts: [%s], ports: [443] }, action: allow, handling: tunnel }\n", tunnelName)
	fmt.Fprintf(&b, "  - { name: past-the-proxy, match: { cidrs: [%s/32], ports: [%d] }, action: allow, handling: direct }\n", originAddress, directPort)
	return b.Bytes()
}
