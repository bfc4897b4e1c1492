package audit

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFilterMatch(t *testing.T) {
	e := exchangeEvent()
	tests := []struct {
		query string
		want  bool
	}{
		{"", true},
		{"workload=github", true},
		{"workload=git*", true},
		{"workload=gitlab,github", true},
		{"workload=gitlab&workload=github", true},
		{"workload=mcp-github.service", true}, // by its unit
		{"workload=/mcp.slice/*", true},
		{"workload=Github", false},
		{"workload=git", false},
		{"verdict=allow", true},
		{"verdict=deny,would_deny", false},
		{"rule=github-*", true},
		{"rule=other", false},
		{"reason=no_rule", false},
		{"kind=exchange,dns", true},
		{"kind=dns", false},
		{"host=api.github.com", true},
		{"host=API.GitHub.com", true},
		{"host=*.github.com", true},
		{"host=github.com", false},
		{"host=203.0.113.9", true},
		{"host=203.0.113.*", true},
		{"since=2026-03-04T05:06:07Z", true},
		{"since=2026-03-04T05:06:08Z", false},
		{"since=2026-03-03", true},
		{"since=10m", true}, // now is nine minutes after the event
		{"since=8m", false},
		{"since=-8m", false},
		{"workload=github&verdict=deny", false},
		{"workload=github&verdict=allow&host=*&kind=exchange", true},
	}
	for _, tt := range tests {
		v, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(v, at.Add(9*time.Minute))
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		if got := f.Match(e); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.query, got, tt.want)
		}
		// The admin API's form says the same.
		again, err := ParseFilter(f.Values(), at)
		if diff := cmp.Diff(f, again); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", tt.query, err, diff)
		}
	}
}

func TestFilterHosts(t *testing.T) {
	f := Filter{Hosts: []string{"a.example"}}
	for name, e := range map[string]Event{
		"dst":       {Dst: Destination{Host: "a.example"}},
		"sni":       {TLS: TLS{SNI: "A.example"}},
		"with port": {HTTP: HTTP{Host: "a.example:8443"}},
		"dns":       {DNS: DNSQuery{Name: "a.example."}},
	} {
		if !f.Match(&e) {
			t.Errorf("%s does not match", name)
		}
	}
	six := Filter{Hosts: []string{"2001:db8::1"}}
	if !six.Match(&Event{Dst: Destination{IP: netip.MustParseAddr("2001:db8::1")}}) {
		t.Error("an IPv6 address does not match")
	}
	if six.Match(&Event{HTTP: HTTP{Host: "2001"}}) {
		t.Error("a part of an address matches")
	}
}

func TestFilterErrors(t *testing.T) {
	for query, want := range map[string]string{
		"kind=exchanges":  `unknown kind "exchanges"; it is one of flow_open, flow_close, exchange`,
		"verdict=denied":  `unknown verdict "denied"; it is one of allow, deny, would_deny`,
		"since=yesterday": `since "yesterday" is neither`,
		"host=" + strings.Repeat("a,", maxPatterns+1): "at most 64",
	} {
		v, _ := url.ParseQuery(query)
		if _, err := ParseFilter(v, at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30s: %v, want %s", query, err, want)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	f.Add("workload=a,b&kind=dns&since=10m")
	f.Add("host=*&verdict=would-deny&since=2026-01-01")
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		filter, err := ParseFilter(v, at)
		if err != nil {
			return
		}
		filter.Match(exchangeEvent())
		if again, err := ParseFilter(filter.Values(), at); err != nil || !again.Since.Equal(filter.Since) {
			t.Errorf("%q: %v", query, err)
		}
	})
}

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abcd", false},
		{"*a*b*", "xaxbx", true}, {"*a*b*", "xbxa", false}, {"**", "a", true}, {"a", "A", false}, {"?", "a", false}, {"a*", "a", true},
	}
	for _, tt := range tests {
		if got := glob(tt.pattern, tt.text); got != tt.want {
			t.Errorf("%q with %q: %v", tt.pattern, tt.text, got)
		}
	}
	// A pattern made to be slow is not: trying every way would take for ever.
	began := time.Now()
	if glob(strings.Repeat("*a", 2000)+"b", strings.Repeat("a", 20000)) {
		t.Error("it matches")
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("%s", d)
	}
}
