package policy

import (
	"net/netip"
	"strings"
	"testing"

	"sallyport/pkg/config"
)

func compile(t testing.TB, text string) *Policy {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// headers are fields for tests; names are in canonical form.
type headers map[string][]string

func (h headers) HeaderValue(name string, i int) (string, bool) {
	if values := h[name]; i < len(values) {
		return values[i], true
	}
	return "", false
}

func (h headers) Fields(yield func(name, value string) bool) {
	for name, values := range h {
		for _, v := range values {
			if !yield(name, v) {
				return
			}
		}
	}
}

func addrs(texts ...string) []netip.Addr {
	all := make([]netip.Addr, len(texts))
	for i, s := range texts {
		all[i] = netip.MustParseAddr(s)
	}
	return all
}

// get is a GET over HTTPS by workload w.
func get(host, path string) *Query {
	return &Query{Workload: "w", Host: host, Addrs: addrs("203.0.113.1"), Port: 443, Protocol: HTTPS, HTTP: &HTTPQuery{Method: "GET", Path: path}}
}

func with(q *Query, change func(*Query)) *Query {
	change(q)
	return q
}

func noOwn(netip.Addr) bool { return false }

const rulesHead = "workloads: { w: {}, v: { mode: observe } }\nrules:\n"

func TestDecide(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: no-admin, match: { hosts: [api.example], paths: ["/admin/**"] }, action: deny }
  - { name: read, match: { hosts: [api.example], methods: [GET, HEAD] }, action: allow }
  - { name: post-json, match: { hosts: [api.example], methods: [POST], headers: { Content-Type: "application/json*" } }, action: allow }
  - { name: below, match: { hosts: ["*.cdn.example"], ports: [443, "8000-8100"] }, action: allow }
  - { name: v-only, match: { workloads: [v], hosts: [v.example] }, action: allow }
  - { name: no-post, match: { hosts: [case.example], methods: [POST] }, action: deny }
  - { name: case, match: { hosts: [case.example] }, action: allow }
  - { name: plain, match: { hosts: [plain.example], protocols: [http] }, action: allow }
  - { name: tls, match: { hosts: [tls.example], protocols: [tls] }, action: allow }
  - { name: tcp, match: { hosts: [tcp.example], protocols: [tcp] }, action: allow }
  - { name: net, match: { cidrs: [198.51.100.0/24] }, action: allow }
  - { name: literal, match: { hosts: [192.0.2.9] }, action: allow }
  - { name: globs, match: { hosts: [m.example], methods: ["P*"] }, action: allow }
`)
	port := func(port uint16) func(*Query) { return func(q *Query) { q.Port = port } }
	method := func(m string) func(*Query) { return func(q *Query) { q.HTTP.Method = m } }
	protocol := func(p Protocol) func(*Query) {
		return func(q *Query) {
			if q.Protocol = p; p != HTTP && p != HTTPS {
				q.HTTP = nil
			}
		}
	}
	post := func(values ...string) func(*Query) {
		return func(q *Query) { q.HTTP.Method, q.HTTP.Header = "POST", headers{"Content-Type": values} }
	}
	tests := []struct {
		name   string
		q      *Query
		rule   string
		reason Reason
	}{
		{"allowed", get("api.example", "/x"), "read", NoReason},
		{"first rule decides", get("api.example", "/admin/x"), "no-admin", RuleDenied},
		{"another method", with(get("api.example", "/x"), method("PUT")), "", NoRule},
		{"lower case is another method", with(get("api.example", "/x"), method("get")), "", NoRule},
		{"header", with(get("api.example", "/x"), post("application/json; charset=utf-8")), "post-json", NoReason},
		{"header of another value", with(get("api.example", "/x"), post("text/plain")), "", NoRule},
		{"no header", with(get("api.example", "/x"), method("POST")), "", NoRule},
		{"one of two values of an allow rule", with(get("api.example", "/x"), post("application/json", "text/plain")), "", NoRule},
		{"subdomain", get("a.cdn.example", "/"), "below", NoReason},
		{"deep subdomain", get("a.b.c.cdn.example", "/"), "below", NoReason},
		{"not the apex", get("cdn.example", "/"), "", NoRule},
		{"not a longer label", get("xcdn.example", "/"), "", NoRule},
		{"port in a range", with(get("a.cdn.example", "/"), port(8050)), "below", NoReason},
		{"port", with(get("a.cdn.example", "/"), port(8101)), "", NoRule},
		{"another workload", get("v.example", "/"), "", NoRule},
		{"the workload", with(get("v.example", "/"), func(q *Query) { q.Workload = "v" }), "v-only", NoReason},
		{"deny in lower case", with(get("case.example", "/"), method("post")), "no-post", RuleDenied},
		{"deny, another method", get("case.example", "/"), "case", NoReason},
		{"http rule, http", with(get("plain.example", "/"), protocol(HTTP)), "plain", NoReason},
		{"http rule, https", get("plain.example", "/"), "", NoRule},
		{"tls rule, https", get("tls.example", "/"), "tls", NoReason},
		{"tls rule, tls", with(get("tls.example", ""), protocol(TLS)), "tls", NoReason},
		{"tls rule, http", with(get("tls.example", "/"), protocol(HTTP)), "", NoRule},
		{"tls rule, other tcp", with(get("tls.example", ""), protocol(TCP)), "", NoRule},
		{"tcp rule, tls", with(get("tcp.example", ""), protocol(TLS)), "tcp", NoReason},
		{"tcp rule, tcp", with(get("tcp.example", ""), protocol(TCP)), "tcp", NoReason},
		{"udp has no way", with(get("tcp.example", ""), protocol(UDP)), "", NoRule},
		{"by address", with(get("any.example", "/"), func(q *Query) { q.Addrs = addrs("198.51.100.7") }), "net", NoReason},
		{"one of the addresses", with(get("any.example", "/"), func(q *Query) { q.Addrs = addrs("203.0.113.1", "198.51.100.7") }), "net", NoReason},
		{"mapped", with(get("any.example", "/"), func(q *Query) { q.Addrs = addrs("::ffff:198.51.100.7") }), "net", NoReason},
		{"no address known", with(get("any.example", "/"), func(q *Query) { q.Addrs = nil }), "", NoRule},
		{"an address as the name", get("192.0.2.9", "/"), "literal", NoReason},
		{"no name", with(get("", "/"), func(q *Query) { q.Addrs = addrs("198.51.100.7") }), "net", NoReason},
		{"no name, hosts only", get("", "/"), "", NoRule},
		{"glob of methods", with(get("m.example", "/"), method("PATCH")), "globs", NoReason},
		{"glob of methods, unknown one", with(get("m.example", "/"), method("PROPFIND")), "globs", NoReason},
		{"glob of methods, another", with(get("m.example", "/"), method("LOCK")), "", NoRule},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := p.Decide(tt.q)
			reason := tt.reason
			if tt.q.Protocol == UDP {
				reason = NoRule
			}
			if d.Rule != tt.rule || d.Reason != reason || (d.Verdict == Allow) != (tt.reason == NoReason) {
				t.Errorf("%v by %q (%v), want %q (%v)", d.Verdict, d.Rule, d.Reason, tt.rule, tt.reason)
			}
		})
	}
}

// TestNothingIsAllowedByNobody: no policy, an empty one, and the zero Decision.
func TestNothingIsAllowedByNobody(t *testing.T) {
	for _, p := range []*Policy{nil, {}} {
		q := get("api.example", "/")
		if d := p.Decide(q); d.Verdict != Deny || d.Reason != NoRule || d.Mode != Enforce {
			t.Errorf("%+v", d)
		}
		if d := p.DecideConn(q); d.Action != Refuse || d.Verdict != Deny {
			t.Errorf("%+v", d)
		}
		if d := p.DecideName("w", "api.example"); d.Verdict != Deny {
			t.Errorf("%+v", d)
		}
		if len(p.DirectRules("w", nil)) != 0 || p.WorkloadMode("w") != Enforce {
			t.Error("direct rules or a mode")
		}
		if e := p.Explain(q); e.Decision.Verdict != Deny {
			t.Errorf("%+v", e)
		}
	}
	var d Decision
	if d.Permits(netip.MustParseAddr("203.0.113.1"), noOwn) || d.Verdict.Passes() {
		t.Error("the zero Decision permits")
	}
	var c ConnDecision
	if c.Action != Refuse {
		t.Error("the zero ConnDecision does not refuse")
	}
}

func TestDefaultAllow(t *testing.T) {
	p := compile(t, "default: allow\nrules: [{ name: no, match: { hosts: [bad.example] }, action: deny }]\n")
	d := p.Decide(get("any.example", "/"))
	if d.Verdict != Allow || d.Rule != "" {
		t.Errorf("%+v", d)
	}
	if d.Permits(netip.MustParseAddr("127.0.0.1"), noOwn) || !d.Permits(netip.MustParseAddr("203.0.113.1"), noOwn) {
		t.Error("address classes do not hold for the default")
	}
	if d := p.Decide(get("bad.example", "/")); d.Verdict != Deny || d.Rule != "no" {
		t.Errorf("%+v", d)
	}
	if d := p.DecideName("w", "any.example"); d.Verdict != Allow {
		t.Errorf("%+v", d)
	}
}

// TestDenyWhereItCannotBeTold: what is not known never lets something past a
// deny rule, nor through an allow rule.
func TestDenyWhereItCannotBeTold(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: net, match: { hosts: [a.example], cidrs: [10.0.0.0/8] }, action: deny }
  - { name: path, match: { hosts: [b.example], paths: ["/admin/**"] }, action: deny }
  - { name: limited, match: { hosts: [c.example], protocols: [http, https], paths: ["/admin/**"] }, action: deny }
  - { name: rest, match: { hosts: ["*.example"] }, action: allow }
  - { name: net6, match: { hosts: [net.test] , cidrs: [10.0.0.0/8] }, action: deny }
  - { name: net-rest, match: { hosts: [net.test] }, action: allow }
`)
	// "*.example" covers a.example and so on.
	tests := []struct {
		name string
		q    Query
		rule string
	}{
		{"address not known", Query{Host: "a.example", Port: 443, Protocol: HTTPS}, "net"},
		{"address elsewhere", Query{Host: "a.example", Addrs: addrs("203.0.113.1"), Port: 443, Protocol: HTTPS}, "rest"},
		{"one address in it", Query{Host: "a.example", Addrs: addrs("203.0.113.1", "10.0.0.1"), Port: 443, Protocol: HTTPS}, "net"},
		{"embedded address in it", Query{Host: "net.test", Addrs: addrs("64:ff9b::a00:1"), Port: 443, Protocol: HTTPS}, "net6"},
		{"6to4 address in it", Query{Host: "net.test", Addrs: addrs("2002:a00:1::1"), Port: 443, Protocol: HTTPS}, "net6"},
		{"no request on other TCP", Query{Host: "b.example", Addrs: addrs("203.0.113.1"), Port: 80, Protocol: TCP}, "path"},
		{"no request on other TLS", Query{Host: "b.example", Addrs: addrs("203.0.113.1"), Port: 443, Protocol: TLS}, "path"},
		{"limited to HTTP", Query{Host: "c.example", Addrs: addrs("203.0.113.1"), Port: 80, Protocol: TCP}, "rest"},
	}
	for _, tt := range tests {
		if d := p.Decide(&tt.q); d.Rule != tt.rule {
			t.Errorf("%s: %v by %q, want %q", tt.name, d.Verdict, d.Rule, tt.rule)
		}
	}
}

// TestPathTricks: every trick against an allow rule and a deny rule. What an
// allow rule lets pass is what it was meant to; what a deny rule was meant to
// stop is stopped however it is written.
func TestPathTricks(t *testing.T) {
	allow := compile(t, rulesHead+`  - { name: r, match: { hosts: [h.example], paths: ["/public/*", "/a%2Fb"] }, action: allow }`)
	deny := compile(t, rulesHead+`
  - { name: r, match: { hosts: [h.example], paths: ["/admin/**"] }, action: deny }
  - { name: rest, match: { hosts: [h.example] }, action: allow }`)
	const pass = NoReason
	tests := []struct {
		path        string
		allow, deny Reason
		forward     string
	}{
		{"/public/x", pass, pass, "/public/x"},
		{"/admin/x", NoRule, RuleDenied, ""},
		{"/admin", NoRule, RuleDenied, ""},
		// Percent-encoding that needs none.
		{"/%70ublic/x", pass, pass, "/public/x"},
		{"/%61dmin/x", NoRule, RuleDenied, ""},
		{"/%61%64%6d%69%6e", NoRule, RuleDenied, ""},
		{"/public/%3a", pass, pass, "/public/%3A"},
		// Dot segments.
		{"/public/../admin/x", AmbiguousPath, AmbiguousPath, ""},
		{"/public/..", AmbiguousPath, AmbiguousPath, ""},
		{"/./admin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/%2e%2e/admin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/.%2E/admin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/..;/admin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/..%3b/admin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/..%2fadmin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/...", AmbiguousPath, AmbiguousPath, ""},
		{"/public/..%20", AmbiguousPath, AmbiguousPath, ""},
		// Backslash, NUL and other control characters.
		{`/public\..\admin`, AmbiguousPath, AmbiguousPath, ""},
		{"/public%5cadmin", AmbiguousPath, AmbiguousPath, ""},
		{"/admin%00", AmbiguousPath, AmbiguousPath, ""},
		{"/public/x%00/../admin", AmbiguousPath, AmbiguousPath, ""},
		{"/admin%0a", AmbiguousPath, AmbiguousPath, ""},
		// Double encoding.
		{"/public/%252e%252e/admin", AmbiguousPath, AmbiguousPath, ""},
		{"/%2561dmin", AmbiguousPath, AmbiguousPath, ""},
		{"/%25%36%31dmin", AmbiguousPath, AmbiguousPath, ""},
		{"/%u0061dmin", AmbiguousPath, AmbiguousPath, ""},
		{"/admin%", AmbiguousPath, AmbiguousPath, ""},
		// Overlong and broken UTF-8; proper UTF-8 is an ordinary character.
		{"/%c1%a1dmin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/%c0%ae%c0%ae/admin", AmbiguousPath, AmbiguousPath, ""},
		{"/public%c0%afadmin", AmbiguousPath, AmbiguousPath, ""},
		{"/\xc0\xafadmin", AmbiguousPath, AmbiguousPath, ""},
		{"/public/é", pass, pass, "/public/%C3%A9"},
		{"/public/%c3%a9", pass, pass, "/public/%C3%A9"},
		// %2F: compared only with a pattern that writes it.
		{"/public%2fx", NoRule, RuleDenied, ""},
		{"/a%2fb", pass, RuleDenied, "/a%2Fb"},
		{"/admin%2Fx", NoRule, RuleDenied, ""},
		{"/public/x%2fadmin", NoRule, RuleDenied, ""},
		// Empty segments, parameters, final dots and spaces.
		{"//admin/x", NoRule, RuleDenied, ""},
		{"/public//x", NoRule, pass, ""},
		{"/admin;x", NoRule, RuleDenied, ""},
		{"/;x/admin", NoRule, RuleDenied, ""},
		{"/admin;a=b/x", NoRule, RuleDenied, ""},
		{"/public/x;y", pass, pass, "/public/x;y"},
		{"/admin.", NoRule, RuleDenied, ""},
		{"/admin./x", NoRule, RuleDenied, ""},
		{"/admin%20/x", NoRule, RuleDenied, ""},
		{"/admin/", NoRule, RuleDenied, ""},
		// No path at all, and forms that are none.
		{"", NoRule, pass, "/"},
		{"*", NoRule, pass, "*"},
		{"admin", AmbiguousPath, AmbiguousPath, ""},
		{"/admin#x", AmbiguousPath, AmbiguousPath, ""},
		{"/admin?x", AmbiguousPath, AmbiguousPath, ""},
	}
	for _, tt := range tests {
		for name, p := range map[string]*Policy{"allow": allow, "deny": deny} {
			want := tt.allow
			if name == "deny" {
				want = tt.deny
			}
			d := p.Decide(get("h.example", tt.path))
			if d.Reason != want || d.Verdict.Passes() != (want == pass) {
				t.Errorf("%s %q: %v (%v), want %v", name, tt.path, d.Verdict, d.Reason, want)
			}
			if d.Verdict == Allow && tt.forward != "" && d.Path != tt.forward {
				t.Errorf("%s %q: forwards %q, want %q", name, tt.path, d.Path, tt.forward)
			}
		}
		// Where no rule looks at paths the path is forwarded as it came.
		if d := deny.Decide(get("other.example", tt.path)); d.Path != tt.path || d.Reason != NoRule {
			t.Errorf("%q: %v, forwards %q", tt.path, d.Reason, d.Path)
		}
	}
}

// TestAmbiguousOnlyWhereReached: a rule with paths whose other keys do not hold
// refuses nothing.
func TestAmbiguousOnlyWhereReached(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: post, match: { hosts: [h.example], methods: [POST], paths: [/x] }, action: allow }
  - { name: v, match: { workloads: [v], hosts: [h.example], paths: [/x] }, action: deny }
  - { name: rest, match: { hosts: [h.example] }, action: allow }
  - { name: late, match: { hosts: [h.example], paths: [/x] }, action: deny }
`)
	d := p.Decide(get("h.example", "/a/../b"))
	if d.Rule != "rest" || d.Path != "/a/../b" {
		t.Errorf("%v by %q, forwards %q", d.Verdict, d.Rule, d.Path)
	}
	d = p.Decide(with(get("h.example", "/a/../b"), func(q *Query) { q.HTTP.Method = "POST" }))
	if d.Reason != AmbiguousPath || d.Rule != "post" {
		t.Errorf("%v by %q", d.Reason, d.Rule)
	}
	// There is no decision that could be observed.
	d = p.Decide(with(get("h.example", "/a/../b"), func(q *Query) { q.Workload = "v" }))
	if d.Reason != AmbiguousPath || d.Verdict != Deny || d.Path != "/a/../b" {
		t.Errorf("%v (%v), forwards %q", d.Verdict, d.Reason, d.Path)
	}
}

// TestNameAtEachAddressClass: a name that a rule allows and that resolves to an
// address of a class is refused unless the rule speaks for that class.
func TestNameAtEachAddressClass(t *testing.T) {
	p := compile(t, rulesHead+`
  - { name: plain, match: { hosts: [plain.example] }, action: allow }
  - { name: private, match: { hosts: [private.example] }, private: [10.0.0.0/8, 127.0.0.1, 169.254.0.0/16], action: allow }
  - { name: net, match: { hosts: [net.example], cidrs: [10.1.0.0/16, 203.0.113.0/24] }, action: allow }
  - { name: all, match: { hosts: [all.example], cidrs: [0.0.0.0/0, "::/0"] }, action: allow }
`)
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.113.77") }
	refusedEverywhere := []string{
		"127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "0.1.2.3", "::", "10.0.0.1", "172.16.0.1", "192.168.0.1", "fd00::1", "fc00::1",
		"169.254.0.1", "fe80::1", "100.64.0.1", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "169.254.169.254", "fd00:ec2::254",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::f7f7:f7f7",
		"2001:0:808:808::80ff:fffe", "::7f00:1", "64:ff9b:1::a00:1", "203.0.113.77", "::ffff:203.0.113.77", "64:ff9b::cb00:714d",
	}
	for _, host := range []string{"plain.example", "all.example"} {
		for _, a := range refusedEverywhere {
			q := with(get(host, "/"), func(q *Query) { q.Addrs = addrs(a) })
			d := p.Decide(q)
			if d.Verdict != Allow {
				t.Fatalf("%s: %v", host, d.Reason)
			}
			if d.Permits(q.Addrs[0], own) {
				t.Errorf("%s at %s is permitted", host, a)
			}
			if d.Classes(q.Addrs[0], own) == "" {
				t.Errorf("%s at %s: no class is named", host, a)
			}
			refused := d.Refuse(AddressDenied)
			if refused.Verdict != Deny || refused.Reason != AddressDenied || refused.Reason.Status() != 403 {
				t.Errorf("%+v", refused)
			}
			if hint := Hint(q, &refused); hint == "" {
				t.Errorf("%s: no hint", a)
			}
		}
	}
	tests := []struct {
		host, addr string
		want       bool
	}{
		{"plain.example", "203.0.113.1", true},
		{"plain.example", "192.0.2.1", true},
		{"plain.example", "198.51.100.1", true},
		{"plain.example", "2001:db8::1", true},
		{"plain.example", "64:ff9b::808:808", true},
		{"private.example", "10.200.0.1", true},
		{"private.example", "127.0.0.1", true},
		{"private.example", "127.0.0.2", false},
		{"private.example", "192.168.0.1", false},
		{"private.example", "169.254.0.1", true},
		{"private.example", "169.254.169.254", false},
		{"private.example", "203.0.113.1", true},
		{"net.example", "10.1.2.3", true},
		{"net.example", "10.2.2.3", false},
		{"net.example", "203.0.113.9", true},
		{"net.example", "203.0.113.77", false},
		{"net.example", "198.51.100.1", false},
		{"all.example", "203.0.113.1", true},
	}
	for _, tt := range tests {
		d := p.Decide(with(get(tt.host, "/"), func(q *Query) { q.Addrs = addrs("203.0.113.1", tt.addr) }))
		if got := d.Permits(netip.MustParseAddr(tt.addr), own); got != tt.want {
			t.Errorf("%s at %s: %v, want %v", tt.host, tt.addr, got, tt.want)
		}
		if d.Permits(netip.MustParseAddr(tt.addr), nil) {
			t.Errorf("%s at %s is permitted though the host's addresses are not known", tt.host, tt.addr)
		}
	}
}

func TestModeNarrows(t *testing.T) {
	for _, tt := range []struct {
		file, workload, rule string
		want                 Verdict
	}{
		{"enforce", "", "", Deny},
		{"observe", "", "", WouldDeny},
		{"observe", "enforce", "", Deny},
		{"enforce", "observe", "", WouldDeny},
		{"enforce", "observe", "enforce", Deny},
		{"observe", "enforce", "observe", WouldDeny},
		{"enforce", "", "observe", WouldDeny},
	} {
		text := "mode: " + tt.file + "\nworkloads:\n  w:\n    name: w\n"
		if tt.workload != "" {
			text += "    mode: " + tt.workload + "\n"
		}
		text += "rules:\n- name: r\n  match: { hosts: [h.example] }\n  action: deny\n"
		if tt.rule != "" {
			text += "  mode: " + tt.rule + "\n"
		}
		p := compile(t, text)
		d := p.Decide(get("h.example", "/"))
		if d.Verdict != tt.want || d.Reason != RuleDenied || d.Rule != "r" {
			t.Errorf("%+v: %v (%v)", tt, d.Verdict, d.Reason)
		}
		if d.Verdict == WouldDeny && (!d.Permits(netip.MustParseAddr("203.0.113.1"), noOwn) || d.Permits(netip.MustParseAddr("10.0.0.1"), noOwn)) {
			t.Errorf("%+v: permits", tt)
		}
	}
	// Several entries that can give a name: the strictest counts.
	p := compile(t, "mode: observe\nworkloads:\n  a: { name: \"{unit}\", mode: observe }\n  b: { name: x.service, mode: enforce }\n")
	if p.WorkloadMode("x.service") != Enforce || p.WorkloadMode("y.service") != Observe {
		t.Error("modes of entries that share a name")
	}
}

// TestObserveCoversOnlyDecisions holds the contract's two lists.
func TestObserveCoversOnlyDecisions(t *testing.T) {
	observable := map[Reason]bool{
		NoRule: true, RuleDenied: true, AddressDenied: true, RateLimited: true, Throttled: true, RequestTooLarge: true,
		ResponseTooLarge: true, ContentFilter: true, ResponseFilter: true, SecretFound: true,
	}
	for r := NoReason + 1; r < reasonCount; r++ {
		d := Decision{Mode: Observe}.Refuse(r)
		if (d.Verdict == WouldDeny) != observable[r] {
			t.Errorf("%v is %v in observe mode", r, d.Verdict)
		}
		if d := (Decision{Mode: Enforce}).Refuse(r); d.Verdict != Deny {
			t.Errorf("%v is %v in enforce mode", r, d.Verdict)
		}
		if r.String() == "" || strings.ToLower(r.String()) != r.String() || r.Status() < 400 {
			t.Errorf("%v, %d", r, r.Status())
		}
	}
	p := compile(t, "mode: observe\n")
	d := p.Decide(&Query{Workload: "w", Addrs: addrs("203.0.113.1"), Port: 53, Protocol: UDP})
	if d.Verdict != Deny || d.Reason != ProtocolDenied {
		t.Errorf("UDP in observe mode: %v (%v)", d.Verdict, d.Reason)
	}
}

func TestTimeouts(t *testing.T) {
	p := compile(t, "timeouts: { connect: 3s }\ndefaults: { timeouts: { connect: 2s } }\nrules:\n- { name: a, match: { hosts: [a.example] }, action: allow }\n- { name: b, match: { hosts: [b.example] }, timeouts: { connect: 1s }, action: allow }\n")
	for host, want := range map[string]string{"a.example": "2s", "b.example": "1s", "c.example": "3s"} {
		if got := p.Decide(get(host, "/")).Timeouts.Connect.String(); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
