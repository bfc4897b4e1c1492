package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStagesDecoded: what testdata/good/stages.yaml says, with every default, and
// what rules take over from `defaults`.
func TestStagesDecoded(t *testing.T) {
	c, _, err := Load("testdata/good/stages.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules := make(map[string]*Rule)
	for i := range c.Rules {
		rules[c.Rules[i].Name] = &c.Rules[i]
	}
	perWorkload := CounterKey{By: ByWorkload}
	defaults := Stages{
		RateLimits: []RateLimit{
			{Minute: 60, By: CounterKey{By: ByHost}, Policy: LocalCounters, FaultTolerant: true},
			{Second: 5, Day: 100, By: CounterKey{ByHeader, "X-User"}, Policy: RedisCounters, HideClientHeaders: true},
		},
		SizeLimit: &SizeLimit{Request: 1e6},
		Secrets:   FilterBlock,
		Headers:   &Headers{Request: HeaderChanges{Remove: []string{"Cookie"}}},
		Log:       &BodyLog{RequestBody: true, MaxBody: 64e3, Redact: []Redaction{{Path: "$..token"}, {Path: "$.list[*].c"}}},
	}
	for name, want := range map[string]Stages{
		"takes all": defaults,
		"sets its own": {
			Auth:       &Auth{"Authorization", "/s"},
			RateLimits: defaults.RateLimits,
			Throttles: []Throttle{
				{Requests: 30, Per: time.Minute, By: perWorkload, Status: 429},
				{Requests: 5, Per: time.Second, Burst: 10, Delay: 4, By: CounterKey{By: ByRule}, Status: 503},
				{Requests: 5, Per: time.Second, Burst: 10, Delay: 10, By: perWorkload, Status: 429},
			},
			ContentFilters: []ContentFilter{
				{Name: "a", Pattern: `(?i)\bsecret\b`, In: InRequest, Action: FilterBlock, Status: 400},
				{Name: "b", Pattern: `x{2,}|\d+y`, In: InBoth, Action: FilterRedact, Status: 451},
			},
			Secrets: FilterRedact,
			Headers: &Headers{
				Request: HeaderChanges{
					Set: []HeaderField{{"X-A", "{workload}"}}, Add: []HeaderField{{"X-B", "one"}, {"X-B", "two"}, {"X-C", ""}}, Remove: []string{"X-D", "X-E"},
				},
				Response: HeaderChanges{Remove: []string{"Server"}},
			},
			Cache: &RuleCache{
				Methods: []string{"GET", "HEAD"}, Statuses: []int{200, 301, 302}, ContentTypes: []string{"text/plain", "application/json"},
				TTL: 5 * time.Minute, MaxBody: 1e6,
			},
			Upstream: "hashed",
			Retry:    &Retry{Attempts: 3, On: []RetryOn{RetryConnect, "502", "503", "504"}, Backoff: 100 * time.Millisecond},
			Log:      &BodyLog{MaxBody: 64e3},
		},
		"does without": {
			SizeLimit: defaults.SizeLimit,
			Cache: &RuleCache{
				Methods: []string{"GET"}, Statuses: []int{200, 301, 302}, ContentTypes: []string{"text/html; charset=utf-8"}, Force: true, MaxBody: 1e6,
			},
			Retry: &Retry{Attempts: 2, On: []RetryOn{RetryConnect, "429", "500"}},
		},
		"denies": {}, "tunnels": {}, "direct": {},
	} {
		if diff := cmp.Diff(want, rules[name].Stages); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := !reflect.DeepEqual(want, Stages{}); rules[name].NeedsRequest() != got {
			t.Errorf("%s: needs the request: %v", name, !got)
		}
	}
	if got := rules["does without"].Without; !slices.Equal(got, []string{"rate_limit", "secrets", "headers", "upstream", "log"}) {
		t.Errorf("without %v", got)
	}

	redis := Redis{Address: "[2001:db8::1]:6380", Username: "limiter", PasswordFile: "/etc/sallyport/redis", TLS: true, CAFile: "/etc/sallyport/redis-ca.pem", DB: 3, Timeout: time.Second}
	if c.Redis != redis || c.Cache.MaxBytes != 1<<30 {
		t.Errorf("%+v, %+v", c.Redis, c.Cache)
	}
	if got := c.Audit.Syslog; got.Address.String() != "tcp://logs.example.com:601" || got.Facility != "local3" || len(c.Audit.Sinks) != 2 {
		t.Errorf("%+v", c.Audit)
	}
	hashed := Upstream{
		Name: "hashed", Algorithm: ConsistentHash, HashOn: HashKey{HashHeader, "X-Session"}, PreserveHost: true, SlowStart: 10 * time.Second,
		Targets: []Target{{"2001:db8::1", 443, 65535}, {"192.0.2.7", 80, 0}},
		Passive: PassiveCheck{Statuses: []int{429, 500, 503}, RecoverAfter: 30 * time.Second},
	}
	if diff := cmp.Diff(hashed, c.Upstreams[1]); diff != "" {
		t.Error(diff)
	}
	active := ActiveCheck{HTTPPath: "/", Timeout: time.Second, Statuses: []int{200, 302}}
	active.Healthy.Interval = 500 * time.Millisecond
	if diff := cmp.Diff(active, c.Upstreams[2].Active); diff != "" {
		t.Error(diff)
	}
	// Without `healthchecks` there are none.
	if diff := cmp.Diff(Upstream{Name: "one", Algorithm: RoundRobin, Targets: []Target{{"api.example.com", 8443, 100}}}, c.Upstreams[0]); diff != "" {
		t.Error(diff)
	}
	files := c.NamedFiles()
	if len(files) != 3 || files[0].Path != "/s" || !strings.Contains(files[0].Key, `"sets its own"`) || files[2].Secret != "" {
		t.Errorf("%+v", files)
	}
}

// TestBinding: what only looks, remembers or tries again lets pass what is no HTTP.
func TestBinding(t *testing.T) {
	for stage, want := range map[string]bool{
		"auth: { header: A, secret_file: /s }": true, "rate_limit: { minute: 1 }": true, "throttle: { rate: 1r/s }": true,
		"size_limit: { request: 1B }": true, "headers: { request: { remove: A } }": true, "upstream: u": true,
		"secrets: block": true, "secrets: redact": true, "secrets: report": false,
		"content_filter: { name: a, pattern: b }": true, "content_filter: { name: a, pattern: b, action: redact }": true,
		"content_filter: { name: a, pattern: b, action: report }": false,
		"cache: {}": false, "retry: {}": false, "log: {}": false,
	} {
		c := parse(t, "upstreams: { u: { targets: { target: 'b.example:443' } } }\nrules:\n  - name: a\n    match: { hosts: a.example }\n    action: allow\n    "+stage+"\n")
		if r := &c.Rules[0]; r.Binding() != want || !r.NeedsRequest() {
			t.Errorf("%s: binding %v, needs the request %v", stage, r.Binding(), r.NeedsRequest())
		}
	}
}

func TestPatterns(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "a+": true, "(a|bc)": true, `^x$`: true, "[a-z]{2,}": true, ".": true, "(?s).": true, `\bfoo\b`: true, "(a?b)+": true,
		"": false, "a*": false, "a?": false, "a|": false, "^": false, `\b`: false, "(a|b*)": false, "a{0,3}": false, "(?:)": false, "[": false, "a(?!b)": false,
		"(a{1000}){1000}": false,
	} {
		if err := checkPattern(s); (err == nil) != want {
			t.Errorf("%q: %v", s, err)
		}
	}
}
