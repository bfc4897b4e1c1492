package agent

import (
	"errors"
	"strings"
	"testing"

	"sallyport/pkg/admin"
	"sallyport/pkg/config"
	"sallyport/pkg/policy"
)

const explained = `version: 1
rules:
  - name: read
    match: { hosts: [api.example.com], methods: [GET], paths: [/v1/**] }
    action: allow
  - name: database
    match: { cidrs: [203.0.113.5/32], ports: [5432] }
    action: allow
    handling: tunnel
  - name: literal
    match: { hosts: [203.0.113.9] }
    action: allow
  - name: local
    match: { hosts: [127.0.0.1] }
    action: allow
  - name: tagged
    match: { hosts: [h.example.com], headers: { X-Kind: "a*" } }
    action: allow
`

func compiled(t *testing.T) (*config.Config, *policy.Policy) {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte(explained)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

func TestExplain(t *testing.T) {
	conf, p := compiled(t)
	for _, c := range []struct {
		name          string
		r             admin.ExplainRequest
		verdict, rule string
	}{
		{"allowed", admin.ExplainRequest{URL: "https://api.example.com/v1/x?q=1"}, "allow", "read"},
		{"name in any form", admin.ExplainRequest{URL: "https://API.Example.com.:443/v1/x"}, "allow", "read"},
		{"method", admin.ExplainRequest{URL: "https://api.example.com/v1/x", Method: "POST"}, "deny", ""},
		{"path", admin.ExplainRequest{URL: "https://api.example.com/v2"}, "deny", ""},
		{"no path", admin.ExplainRequest{URL: "https://api.example.com"}, "deny", ""},
		{"address", admin.ExplainRequest{URL: "tcp://203.0.113.5:5432"}, "allow", "database"},
		{"address as host", admin.ExplainRequest{URL: "https://203.0.113.9/"}, "allow", "literal"},
		{"address without a request", admin.ExplainRequest{URL: "tls://203.0.113.9"}, "deny", ""},
		{"address of a class", admin.ExplainRequest{URL: "https://127.0.0.1/"}, "deny", "local"},
		{"other port", admin.ExplainRequest{URL: "tcp://203.0.113.5:5433"}, "deny", ""},
		{"header", admin.ExplainRequest{URL: "http://h.example.com/", Headers: []admin.Header{{Name: "x-kind", Value: "abc"}}}, "allow", "tagged"},
		{"header twice", admin.ExplainRequest{URL: "http://h.example.com/", Headers: []admin.Header{{Name: "X-Kind", Value: "a"}, {Name: "X-Kind", Value: "abc"}}}, "allow", "tagged"},
		{"one value of two", admin.ExplainRequest{URL: "http://h.example.com/", Headers: []admin.Header{{Name: "X-Kind", Value: "abc"}, {Name: "X-Kind", Value: "b"}}}, "deny", ""},
		{"without the header", admin.ExplainRequest{URL: "http://h.example.com/"}, "deny", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.r.Workload = "w"
			x, err := Explain(conf, p, &c.r)
			if err != nil {
				t.Fatal(err)
			}
			if x.Verdict != c.verdict || x.Rule != c.rule {
				t.Errorf("%s by %q (%s), want %s by %q", x.Verdict, x.Rule, x.Reason, c.verdict, c.rule)
			}
			if c.verdict == "deny" && x.Hint == "" {
				t.Error("a refusal without a hint")
			}
		})
	}
}

func TestExplainBadRequest(t *testing.T) {
	conf, p := compiled(t)
	for _, url := range []string{"", "api.example.com", "ftp://api.example.com/", "tcp://api.example.com", "https://0x7f.1/", "https://%zz/", "http://a b/"} {
		if _, err := Explain(conf, p, &admin.ExplainRequest{Workload: "w", URL: url}); !errors.Is(err, admin.ErrBadRequest) {
			t.Errorf("%q: %v, want a bad request", url, err)
		}
	}
}

// TestExplainProxy: by which proxy it would leave, and why a rule with cidrs
// does not match a name that only the proxy resolves.
func TestExplainProxy(t *testing.T) {
	c, err := config.Parse([]config.File{{Name: "f", Data: []byte(`
upstream_proxy: { url: "http://proxy:3128", username: alice, no_proxy: [corp.example, 203.0.113.9] }
rules:
  - { name: net, match: { hosts: [api.example.com], cidrs: [203.0.113.0/24] }, action: allow }
  - { name: own, match: { hosts: [own.example.com] }, action: allow, upstream_proxy: { url: "https://other" } }
  - { name: all, match: { hosts: ["*.example.com", git.corp.example] }, action: allow }
  - { name: addresses, match: { cidrs: [203.0.113.0/24] }, action: allow }
`)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"https://api.example.com/": "all http://proxy:3128", "https://own.example.com/": "own https://other:443", "https://git.corp.example/": "all ",
		"tcp://203.0.113.5:22": "addresses http://proxy:3128", "tcp://203.0.113.9:22": "addresses ", "https://unlisted.test/": " ",
	} {
		x, err := Explain(c, p, &admin.ExplainRequest{Workload: "w", URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Rule + " " + x.UpstreamProxy; got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		if strings.HasSuffix(url, "api.example.com/") && !strings.Contains(x.Steps[0].Why, "goes by an upstream proxy") {
			t.Errorf("%+v", x.Steps)
		}
	}
}

// TestExplainStages: which stages of the rule follow, in their order.
func TestExplainStages(t *testing.T) {
	c, err := config.Parse([]config.File{{Name: "f", Data: []byte(`
defaults: { secrets: report, size_limit: { request: 1MB } }
rules:
  - { name: no, match: { hosts: [no.example.com] }, action: deny }
  - { name: limited, match: { hosts: [api.example.com] }, action: allow, retry: {}, rate_limit: { minute: 1 }, secrets: off }
`)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"api.example.com": "size_limit rate_limit retry", "no.example.com": "", "other.example.com": ""} {
		x, err := Explain(c, p, &admin.ExplainRequest{Workload: "w", URL: "https://" + host + "/"})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(x.Stages, " "); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}
