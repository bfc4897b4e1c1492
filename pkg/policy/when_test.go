package policy

import (
	"strings"
	"testing"
)

const whenRules = `
rules:
  - name: guarded
    match: { hosts: [api.example.com], when: "request.headers['x-level'][0] == 'root'" }
    action: deny
  - name: pages
    match:
      hosts: [api.example.com]
      paths: [/repos/**]
      when: 'request.query["per_page"].all(v, int(v) <= 100)'
    action: allow
  - name: who
    match: { hosts: [who.example.com], when: 'workload.unit == "mcp.service" && workload.uid == 7 && flow.port == 443 && request.scheme == "https"' }
    action: allow
  - name: outside
    match: { hosts: [paths.example.com], when: 'request.path.startsWith("/admin")' }
    action: deny
  - name: inside
    match: { hosts: [paths.example.com], when: 'request.method == "GET" && request.path.startsWith("/repos/")' }
    action: allow
  - { name: any, match: { hosts: [other.example.com], when: 'request.method == "GET" || request.path == "/"' }, action: allow }
`

// TestWhen: a condition is the last key of a match; without an answer it
// refuses, whatever the rule's action.
func TestWhen(t *testing.T) {
	t.Parallel()
	p := compile(t, whenRules)
	plain := headers{"X-Level": {"user"}}
	for _, tt := range []struct {
		name   string
		query  Query
		want   Verdict
		reason Reason
		rule   string
		hint   string
	}{
		{"holds", *asking("api.example.com", "/repos/a", "per_page=100", plain), Allow, NoReason, "pages", ""},
		{"does not hold", *asking("api.example.com", "/repos/a", "per_page=101", plain), Deny, NoRule, "", "no rule"},
		{"another key does not hold", *asking("api.example.com", "/x", "per_page=1", plain), Deny, NoRule, "", "no rule"},
		{"no such key", *asking("api.example.com", "/repos/a", "", plain), Deny, RuleDenied, "pages", "no such key: per_page"},
		{"no number", *asking("api.example.com", "/repos/a", "per_page=x", plain), Deny, RuleDenied, "pages", "gives no answer"},
		{"a query that can be read in two ways", *asking("api.example.com", "/repos/a", "per_page=1;per_page=1000", plain), Deny, RuleDenied, "pages", "gives no answer"},
		{"a deny rule without an answer", *asking("api.example.com", "/repos/a", "per_page=1", headers{}), Deny, RuleDenied, "guarded", "gives no answer"},
		{"a deny rule that holds", *asking("api.example.com", "/repos/a", "per_page=1", headers{"X-Level": {"root"}}), Deny, RuleDenied, "guarded", "denies this"},
		{"an ambiguous path", *asking("api.example.com", "/repos/%2e%2e/a", "per_page=1", plain), Deny, AmbiguousPath, "pages", ""},
		{"an ambiguous path where it does not hold", *asking("api.example.com", "/repos/%2e%2e/a", "per_page=101", plain), Deny, NoRule, "", ""},
		// Without paths the condition alone judges the path that goes out.
		{"a path", *asking("paths.example.com", "/repos/a", "", plain), Allow, NoReason, "inside", ""},
		{"a path that leads elsewhere", *asking("paths.example.com", "/repos/../admin", "", plain), Deny, RuleDenied, "outside", "ambiguous"},
		{"a path encoded twice", *asking("paths.example.com", "/%2561dmin", "", plain), Deny, RuleDenied, "outside", "ambiguous"},
		{"a path that nobody asks for", *asking("other.example.com", "/a/../b", "", plain), Allow, NoReason, "any", ""},
		{"an unknown asker", *asking("who.example.com", "/", "", plain), Deny, NoRule, "", ""},
	} {
		e := p.Explain(&tt.query)
		d := e.Decision
		if d.Verdict != tt.want || d.Reason != tt.reason || d.Rule != tt.rule || !strings.Contains(e.Hint, tt.hint) {
			t.Errorf("%s: %v %v by %q (%s); want %v %v by %q (%s)", tt.name, d.Verdict, d.Reason, d.Rule, e.Hint, tt.want, tt.reason, tt.rule, tt.hint)
		}
	}
	known := asking("who.example.com", "/", "", plain)
	known.Who = &Who{Unit: "mcp.service", UID: 7}
	if d := p.Decide(known); d.Verdict != Allow {
		t.Errorf("a known asker: %v %v", d.Verdict, d.Reason)
	}
	// A connection shows no request, so it is inspected.
	if d := p.DecideConn(&Query{Workload: "w", Host: "who.example.com", Addrs: addrs("203.0.113.1"), Port: 443, Protocol: HTTPS}); d.Action != InspectConn {
		t.Errorf("the connection: %v", d.Action)
	}
}

func asking(host, path, query string, fields headers) *Query {
	q := get(host, path)
	q.HTTP.RawQuery, q.HTTP.Header = query, fields
	return q
}

// TestWhenObserved: in observe mode a request of which a condition does not tell
// anything goes the way of the rule all the same.
func TestWhenObserved(t *testing.T) {
	t.Parallel()
	p := compile(t, `
mode: observe
upstreams: { search: { targets: [{ target: "search.example.com:443" }] } }
upstream_proxy: { url: "http://proxy.example.com:3128" }
rules:
  - { name: a, match: { hosts: [a.example.com], when: "int(request.query['n'][0]) < 9" }, action: allow, upstream: search }
  - { name: b, match: { hosts: [b.example.com], when: "int(request.query['n'][0]) < 9" }, action: allow }
`)
	for host, upstream := range map[string]string{"a.example.com": "search", "b.example.com": ""} {
		d := p.Decide(asking(host, "/", "n=x", nil))
		if d.Verdict != WouldDeny || d.Reason != RuleDenied || d.Upstream != upstream || (d.Proxy != nil) != (upstream == "") {
			t.Errorf("%s: %v %v, upstream %q, proxy %v", host, d.Verdict, d.Reason, d.Upstream, d.Proxy)
		}
	}
}
