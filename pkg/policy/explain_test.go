package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/config"
)

func TestExplain(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: port, match: { hosts: [h.example], ports: ["8000-8100", 9000] }, action: allow }
  - { name: protocol, match: { hosts: [h.example], protocols: [http] }, action: allow }
  - { name: workload, match: { workloads: [v], hosts: [h.example] }, action: allow }
  - { name: host, match: { hosts: [a.example, "*.b.example"] }, action: allow }
  - { name: net, match: { cidrs: [10.0.0.0/8] }, action: allow }
  - { name: method, match: { methods: [PUT, "P*"] }, action: allow }
  - { name: header, match: { headers: { X-A: b } }, action: allow }
  - { name: path, match: { paths: [/x/*] }, action: allow }
  - { name: all, match: { hosts: [h.example] }, action: deny }
  - { name: never, action: allow }
`)
	e := p.Explain(get("h.example", "/y"))
	want := []Step{
		{"port", false, "ports: 443 is not among 8000-8100, 9000"},
		{"protocol", false, "protocols: https is not among them"},
		{"workload", false, `workloads: "w" matches none of them`},
		{"host", false, "hosts: h.example matches none of a.example, *.b.example"},
		{"net", false, "cidrs: 203.0.113.1 lies in none of 10.0.0.0/8"},
		{"method", false, `methods: "GET" matches none of PUT, P*`},
		{"header", false, "headers: one is missing or has another value"},
		{"path", false, "paths: /y matches none of /x/*"},
		{"all", true, "denies"},
	}
	if diff := cmp.Diff(want, e.Steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if e.Decision.Rule != "all" || e.Hint == "" {
		t.Errorf("%+v", e)
	}
	e = p.Explain(get("h.example", "/x/../y"))
	if last := e.Steps[len(e.Steps)-1]; last != (Step{"path", true, "refuses: the path has a dot segment"}) {
		t.Errorf("%+v", last)
	}
	e = p.Explain(with(get("", "/"), func(q *Query) { q.Protocol, q.HTTP, q.Addrs = TCP, nil, nil }))
	if got := e.Steps[3].Why + "; " + e.Steps[4].Why; got != "hosts: no name is known; cidrs: no address is known" {
		t.Error(got)
	}
	if last := e.Steps[len(e.Steps)-1]; last.Rule != "never" || last.Why != "allows, handling inspect" || e.Hint != "" {
		t.Errorf("%+v, hint %q", last, e.Hint)
	}
	e = p.Explain(with(get("", ""), func(q *Query) { q.Protocol, q.HTTP = TCP, nil }))
	if !strings.HasPrefix(e.Steps[5].Why, "it looks at requests") {
		t.Errorf("%+v", e.Steps[5])
	}
}

func TestHintTexts(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: no, match: { hosts: [no.example] }, action: deny }
  - { name: posts, match: { hosts: [p.example], methods: [POST] }, action: deny }
  - { name: ok, match: { hosts: [ok.example] }, action: allow }
  - { name: net, match: { hosts: [net.example], cidrs: [198.51.100.0/24] }, action: allow }
`)
	tests := []struct {
		q      *Query
		reason Reason
		want   string
	}{
		{get("api.example", "/repos/x"), NoReason,
			`no rule allows this; add to rules: {name: allow-api-example, match: {workloads: [w], hosts: [api.example], ports: [443], methods: [GET], paths: [/repos/x]}, action: allow}`},
		{with(get("api.example", "/a b*{c}"), func(q *Query) { q.Workload = "stranger" }), NoReason,
			`no rule allows this; add to rules: {name: allow-api-example, match: {hosts: [api.example], ports: [443], methods: [GET], paths: [/a%20b%2A%7Bc%7D]}, action: allow}`},
		{get("no.example", "/"), NoReason,
			`rule "no" denies this; to allow it put before that rule: {name: allow-no-example, match: {workloads: [w], hosts: [no.example], ports: [443], methods: [GET], paths: [/]}, action: allow}`},
		{&Query{Workload: "w", Addrs: addrs("2001:db8::1"), Port: 5432, Protocol: TCP}, NoReason,
			`no rule allows this; add to rules: {name: allow-2001-db8--1, match: {workloads: [w], cidrs: ["2001:db8::1"], ports: [5432]}, action: allow}`},
		{&Query{Workload: "w", Host: "p.example", Addrs: addrs("203.0.113.1"), Port: 25, Protocol: TCP}, NoReason,
			`rule "posts" denies this; to allow it put before that rule: {name: allow-p-example, match: {workloads: [w], hosts: [p.example], ports: [25]}, action: allow}; or limit "posts" with protocols: [http, https], since it looks at requests and this connection shows none`},
		{with(get("ok.example", "/"), func(q *Query) { q.Addrs = addrs("10.0.0.5") }), AddressDenied,
			`ok.example is at the private address 10.0.0.5; to allow it add to rule "ok": private: ["10.0.0.5/32"]`},
		{with(get("ok.example", "/"), func(q *Query) { q.Addrs = addrs("203.0.113.5") }), AddressDenied,
			`ok.example is at the host's own address 203.0.113.5; to allow it add to rule "ok": private: ["203.0.113.5/32"]`},
		{with(get("net.example", "/"), func(q *Query) { q.Addrs = addrs("198.51.100.1") }), AddressDenied,
			`net.example is at the host's own address 198.51.100.1; to allow it add to rule "net": private: ["198.51.100.1/32"]`},
		{get("ok.example", "/"), NameMismatch, ""},
	}
	for _, tt := range tests {
		d := p.Decide(tt.q)
		if tt.reason != NoReason {
			d = d.Refuse(tt.reason)
		}
		if got := Hint(tt.q, &d); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	q := &Query{Addrs: addrs("203.0.113.1"), Port: 443, Protocol: UDP}
	d := compile(t, "default: allow\n").Decide(q)
	if got := Hint(q, &d); !strings.HasPrefix(got, "UDP leaves only") {
		t.Error(got)
	}
}

// TestHintForOtherProtocols: where rules take over stages by which nothing but
// HTTP may pass, the rule that a hint tells to add tunnels.
func TestHintForOtherProtocols(t *testing.T) {
	const head = "defaults: { size_limit: { request: 1MB } }\n"
	q := &Query{Workload: "w", Host: "db.example", Addrs: addrs("203.0.113.1"), Port: 5432, Protocol: TCP}
	d := compile(t, head).Decide(q)
	_, advice, _ := strings.Cut(Hint(q, &d), "rules: ")
	if d = compile(t, head+"rules:\n- "+advice+"\n").Decide(q); d.Verdict != Allow || d.Handling != Tunnel {
		t.Errorf("%s: %v", advice, d.Verdict)
	}
	if d = compile(t, head+"rules: [{ name: a, match: { hosts: [db.example] }, action: allow }]\n").Decide(q); d.Verdict != Deny {
		t.Errorf("past the size limit: %v", d.Verdict)
	}
}

// TestHintsAreTrue: the rule that a hint tells to add is valid and allows what
// was refused.
func TestHintsAreTrue(t *testing.T) {
	paths := []string{"/", "/repos/x", "/a b", "/%2e%2e%2f", "/a%2Fb", "/é", "/*", "/x/" + strings.Repeat("y", 200), "/" + strings.Repeat("z", 300), "//x", "/x;y", "/x.", "*", `/"quoted"`, "/a,b]", "/#"}
	hosts := []string{"api.example", "1.example", "xn--bcher-kva.example", "10.0.0.1", "2001:db8::1", "true.no"}
	methods := []string{"GET", "post", "M-SEARCH", "{}", ""}
	for _, host := range hosts {
		for _, path := range paths {
			for _, method := range methods {
				q := with(get(host, path), func(q *Query) { q.HTTP.Method = method })
				d := compile(t, "workloads: { w: {} }\n").Decide(q)
				_, advice, found := strings.Cut(Hint(q, &d), "rules: ")
				if !found {
					t.Fatalf("%s %s %q: %q", method, host, path, Hint(q, &d))
				}
				c, err := config.Parse([]config.File{{Name: "hint", Data: []byte("workloads: { w: {} }\nrules:\n- " + advice + "\n")}})
				if err != nil {
					t.Errorf("%s %s %q: %v\n%s", method, host, path, err, advice)
					continue
				}
				p, err := Compile(c)
				if err != nil {
					t.Fatal(err)
				}
				if d := p.Decide(q); d.Verdict != Allow {
					t.Errorf("%s %s %q: still %v\n%s", method, host, path, d.Reason, advice)
				}
			}
		}
	}
}

func TestHintForAddressWithoutRule(t *testing.T) {
	p := compile(t, "default: allow\n")
	q := with(get("h.example", "/"), func(q *Query) { q.Addrs = addrs("127.0.0.1") })
	d := p.Decide(q)
	d = d.Refuse(AddressDenied)
	want := `h.example is at the loopback address 127.0.0.1; only a rule that names it can allow it: {name: allow-127-0-0-1, match: {cidrs: ["127.0.0.1"], ports: [443]}, action: allow}`
	if got := Hint(q, &d); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if d.Permits(netip.MustParseAddr("127.0.0.1"), noOwn) {
		t.Error("permitted")
	}
}
