package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// A control is a stage as TestOrderOfControls uses it: a rule's keys, and how to
// ask so that it acts.
type control struct {
	name string
	// keys are those of the rule.
	keys string
	// refuses is the reason of its refusal; "" where it lets pass.
	refuses string
	status  int
	// ask are curl's arguments that make it refuse. Those who count refuse the
	// second request of their rule whatever it is.
	ask string
}

// orderKey and orderSecret are what auth and secrets know.
const (
	orderKey    = "correct-horse-battery"
	orderSecret = "AKIA" + "Q3EGRIXKQPWZ7TLM"
)

// requestControls are in the order in which requests meet them.
var requestControls = []control{
	{"auth", "auth: { header: X-Api-Key, secret_file: /srv/order.key }", "auth_required", 401, "-H X-Api-Key:"},
	{"size_limit", "size_limit: { request: 10B }", "request_too_large", 413, "-d 0123456789abcdef"},
	{"rate_limit", "rate_limit: { day: 1 }", "rate_limited", 429, ""},
	{"throttle", "throttle: { rate: 1r/m }", "throttled", 429, ""},
	{"content_filter", "content_filter: [ { name: words, pattern: badword, in: request, action: block } ]", "content_filter", 400, "-H X-Word:badword"},
	{"secrets", "secrets: block", "secret_found", 403, "-H X-Note:" + orderSecret},
	{"headers", "headers: { request: { set: { X-Set: yes } }, response: { set: { X-Set: yes } } }", "", 200, ""},
	{"cache", "cache: { content_types: [text/plain] }", "", 200, ""},
	{"upstream", "upstream: nobody", "no_healthy_target", 503, ""},
	{"retry", `retry: { attempts: 2, on: ["503"], backoff: 1ms }`, "", 200, ""},
	{"log", "log: { request_body: true, response_body: true }", "", 200, ""},
}

// TestOrderOfControls: every pair of stages on one rule, both with a reason to
// act: the one that comes first in the contract's order does, and the upstream
// is asked only where both let pass.
func TestOrderOfControls(t *testing.T) {
	t.Parallel()
	withinWindow(24*time.Hour, 2*time.Minute)
	h := newHost(t)
	h.write("/srv/order.key", orderKey+"\n")
	h.sh("chmod 600 /srv/order.key")
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=600")
		fmt.Fprintf(w, "from the origin %s", r.Header.Get("X-Set"))
	})
	var rules, script strings.Builder
	type pair struct {
		host          string
		first, second *control
	}
	var pairs []pair
	for i := range requestControls {
		for j := i + 1; j < len(requestControls); j++ {
			a, b := &requestControls[i], &requestControls[j]
			host := fmt.Sprintf("p%d-%d.order.example.com", i, j)
			h.net.setName(host, originV4)
			pairs = append(pairs, pair{host, a, b})
			fmt.Fprintf(&rules, "  - { name: %s-%s, match: { hosts: [%s] }, action: allow, %s, %s }\n", a.name, b.name, host, a.keys, b.keys)
			// The first request has no reason to be refused but a dead upstream, and
			// is what those who count have counted. The second gives both a reason.
			ask := a.ask + " " + b.ask
			if !strings.Contains(ask, "X-Api-Key") {
				ask += " -H X-Api-Key:" + orderKey
			}
			curl := `curl -s -o /dev/null -w '%{http_code} %header{x-sallyport-reason} %header{x-cache-status} %header{x-set}|' -X GET `
			fmt.Fprintf(&script, "%s -H X-Api-Key:%s https://%s/warm\n%s %s https://%s/warm\necho\n", curl, orderKey, host, curl, ask, host)
		}
	}
	h.startDaemon(h.config("upstreams:\n  nobody: { targets: [ { target: \"" + originV4 + ":9\" } ] }\nrules:\n" + rules.String()))
	h.write("/srv/order.sh", script.String())
	r := h.run(h.command(h.execBy("bash", "/srv/order.sh")...))
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if len(lines) != len(pairs) {
		t.Fatalf("%d lines for %d pairs: %v", len(lines), len(pairs), r)
	}
	asked := make(map[string]int)
	for _, s := range h.net.seen() {
		asked[s.Host]++
	}
	for i, p := range pairs {
		t.Run(p.first.name+" before "+p.second.name, func(t *testing.T) {
			answers := strings.Split(lines[i], "|")
			warm, second := strings.Fields(answers[0]), strings.Fields(answers[1])
			decides := p.first
			if decides.refuses == "" {
				decides = p.second
			}
			want, reached := 200, 2
			if decides.refuses != "" {
				want, reached = decides.status, 1
			}
			dead := p.first.name == "upstream" || p.second.name == "upstream"
			cached := p.first.name == "cache" || p.second.name == "cache"
			switch {
			case dead:
				reached = 0
			case cached && decides.refuses == "":
				reached = 1
			}
			if dead && warm[0] != "502" && warm[0] != "503" || !dead && warm[0] != "200" {
				t.Fatalf("the first request: %s", answers[0])
			}
			ok := second[0] == fmt.Sprint(want)
			switch {
			case dead && decides.name == "upstream":
				// A target that nobody has found out to be dead cannot be reached.
				ok = second[0] == "502" || second[0] == "503"
			case decides.refuses != "":
				ok = ok && second[1] == decides.refuses
			case cached:
				ok = ok && strings.Contains(answers[1], " Hit ")
			}
			if !ok {
				t.Errorf("the second request: %q; want %d %s", answers[1], want, decides.refuses)
			}
			if n := asked[p.host]; n != reached {
				t.Errorf("%d requests reached the origin, want %d", n, reached)
			}
		})
	}
}

// TestOrderOfResponseControls: what a response meets, in the contract's order:
// size, filter and secrets, headers, cache, log.
func TestOrderOfResponseControls(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=600")
		fmt.Fprintf(w, "a badword and %s and more than fifty bytes of text", orderSecret)
	})
	redact := `content_filter: [ { name: words, pattern: badword, in: response, action: redact } ]`
	block := `content_filter: [ { name: words, pattern: badword, in: response, action: block } ]`
	names := `headers: { response: { set: { X-Word: badword }, add: { X-Many: one } } }`
	cache := "cache: { content_types: [text/plain] }"
	logged := "log: { response_body: true }"
	for i, tt := range []struct {
		name, keys string
		// Of the second of two requests.
		want    string // status, reason, X-Cache-Status
		has     string // in the body
		hasNot  string
		many    string // X-Many as curl prints it
		logged  string // in the event's body
		message string // in the event's message
	}{
		{name: "size before filter", keys: "size_limit: { response: 50B }, " + block, want: "502 response_too_large "},
		{name: "size before secrets", keys: "size_limit: { response: 50B }, secrets: block", want: "502 response_too_large "},
		{name: "filter and secrets", keys: redact + ", secrets: redact", want: "200  ", hasNot: orderSecret, has: "and more"},
		{name: "filter before headers", keys: block + ", " + names, want: "502 response_filter "},
		{name: "headers are not filtered", keys: `content_filter: [ { name: names, pattern: "^badword$", in: response, action: block } ], ` + names, want: "200  ", has: "badword", many: "one"},
		{name: "filter before cache", keys: redact + ", " + cache, want: "200  Hit", hasNot: "badword", has: "and more"},
		{name: "secrets before cache", keys: "secrets: redact, " + cache, want: "200  Hit", hasNot: orderSecret, has: "badword"},
		{name: "size before cache", keys: "size_limit: { response: 50B }, " + cache, want: "502 response_too_large "},
		{name: "headers before cache", keys: names + ", " + cache, want: "200  Hit", many: "one"},
		{name: "filter before log", keys: redact + ", " + logged, want: "200  ", hasNot: "badword", logged: "and more"},
		{name: "cache before log", keys: redact + ", " + cache + ", " + logged, want: "200  Hit", hasNot: "badword", logged: "and more"},
		{name: "headers and log", keys: names + ", " + logged, want: "200  ", many: "one", logged: "and more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{t: t, name: h.name, holder: h.holder, pid: h.pid, net: h.net, slice: h.slice, binary: h.binary}
			name := fmt.Sprintf("r%d.order.example.com", i)
			h.net.setName(name, originV4)
			policy := h.config(fmt.Sprintf("rules:\n  - { name: r, match: { hosts: [%s] }, action: allow, %s }\n", name, tt.keys))
			r := h.run(h.command(h.exec(policy, "bash", "-c", fmt.Sprintf(`curl -s -o /dev/null https://%[1]s/x; curl -s -w '\n%%{http_code} %%header{x-sallyport-reason} %%header{x-cache-status}\n%%header{x-many}\n' https://%[1]s/x`, name))...))
			lines := strings.Split(r.stdout, "\n")
			if len(lines) < 3 {
				t.Fatalf("%v", r)
			}
			body, head, many := strings.Join(lines[:len(lines)-3], "\n"), lines[len(lines)-3], lines[len(lines)-2]
			if head != tt.want || many != tt.many || !strings.Contains(body, tt.has) || tt.hasNot != "" && strings.Contains(body, tt.hasNot) {
				t.Errorf("got %q, X-Many %q, %q; want %q, %q, with %q, without %q", head, many, body, tt.want, tt.many, tt.has, tt.hasNot)
			}
			if tt.logged != "" {
				e := h.waitAudit("the exchange", func(e *audit.Event) bool {
					return e.Kind == audit.Exchange && e.HTTP.Host == name && (e.Cache == "" || e.Cache == "hit")
				})
				if !strings.Contains(e.HTTP.ResponseBody, tt.logged) || tt.hasNot != "" && strings.Contains(e.HTTP.ResponseBody, tt.hasNot) {
					t.Errorf("recorded %q", e.HTTP.ResponseBody)
				}
			}
		})
	}
}
