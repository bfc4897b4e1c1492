package e2e

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

const whenPolicy = `
mode: enforce
metrics: { listen: "127.0.0.1:9595" }
workloads: { pager: {} }
rules:
  - name: small-pages
    match:
      hosts: [api.example.com]
      paths: [/pages/**]
      when: 'request.query["per_page"].all(v, int(v) <= 100) && request.headers["x-team"] == ["a"]'
    action: allow
  - name: team-b
    match: { hosts: [api.example.com], paths: [/pages/**], when: '"b" in request.headers["x-team"]' }
    action: allow
  - name: who
    match: { hosts: [api.example.com], paths: [/who], when: 'workload.name == "pager" && workload.uid == 0 && request.scheme == "https" && request.port == flow.port && flow.addresses.exists(a, a == "203.0.113.10")' }
    action: allow
`

// TestWhen: conditions on requests of real clients. One that holds lets its rule
// decide, one that does not leaves the next rule to, and one without an answer
// refuses and says why.
func TestWhen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	web := &http.Server{Handler: http.HandlerFunc(h.net.answer), ErrorLog: log.New(io.Discard, "", 0)}
	inNetns(t, h.net.ns, func() {
		go web.Serve(tls.NewListener(h.net.listen(":8444"), &tls.Config{GetCertificate: h.net.ca.Certificate, NextProtos: []string{"h2"}}))
	})
	t.Cleanup(func() { web.Close() })
	h.startDaemon(h.config(whenPolicy))
	type seen struct {
		status, version int
		body            struct{ Error, Reason, Rule, Event string }
	}
	config := daemonConfig
	ask := func(version, url string, options ...string) (s seen) {
		t.Helper()
		argv := append([]string{"exec", "--config", config, "--workload", "pager", "--", "curl", "-sS", "--max-time", "20", version, "-w", "\n%{http_code} %{http_version}", url}, options...)
		r := h.run(h.sallyport(argv...))
		body, last, _ := strings.Cut(r.stdout, "\n")
		if strings.HasPrefix(last, "\n") || strings.Count(last, "\n") > 0 {
			last = last[strings.LastIndexByte(last, '\n')+1:]
		}
		if r.code != 0 || len(last) < 5 || json.Unmarshal([]byte(body), &s.body) != nil {
			t.Fatalf("%s %s: %v", version, url, r)
		}
		for _, c := range last[:3] {
			s.status = 10*s.status + int(c-'0')
		}
		s.version = int(last[4] - '0')
		return s
	}
	for _, version := range []struct {
		option, origin string
		number         int
	}{{"--http1.1", "https://api.example.com", 1}, {"--http2", "https://api.example.com:8444", 2}} {
		for _, tt := range []struct {
			name, path, team string
			status           int
			rule, reason     string
			fault            string
		}{
			{"holds", "/pages/x?per_page=100", "a", 200, "small-pages", "", ""},
			{"holds for each value", "/pages/x?per_page=1&per_page=99", "a", 200, "small-pages", "", ""},
			{"does not for one of them", "/pages/x?per_page=1&per_page=101", "a", 403, "", "no_rule", ""},
			{"does not, the next rule's does", "/pages/x?per_page=101", "b", 200, "team-b", "", ""},
			{"none holds", "/pages/x?per_page=7", "c", 403, "", "no_rule", ""},
			{"a key that is not there", "/pages/x", "a", 403, "small-pages", "rule_denied", "no such key: per_page"},
			{"no number", "/pages/x?per_page=many", "a", 403, "small-pages", "rule_denied", "type conversion error"},
			{"a query that can be read in two ways", "/pages/x?per_page=1;per_page=9999", "a", 403, "small-pages", "rule_denied", "the query cannot be read"},
			{"a header that is not there, after one rule that does not hold", "/pages/x?per_page=101", "", 403, "team-b", "rule_denied", "no such key: x-team"},
			{"who asks whom", "/who", "", 200, "who", "", ""},
		} {
			before := len(h.net.seen())
			var options []string
			if tt.team != "" {
				options = []string{"-H", "X-Team: " + tt.team}
			}
			s := ask(version.option, version.origin+tt.path, options...)
			if s.status != tt.status || s.version != version.number || s.body.Reason != tt.reason || tt.status != 200 && s.body.Rule != tt.rule || !strings.Contains(s.body.Error, tt.fault) {
				t.Errorf("%s, %s: %+v", version.option, tt.name, s)
			}
			if reached := len(h.net.seen()) - before; (reached == 1) != (tt.status == 200) {
				t.Errorf("%s, %s: %d requests at the origin", version.option, tt.name, reached)
			}
			e := h.waitAudit(tt.name, func(e *audit.Event) bool {
				return e.Kind == audit.Exchange && e.HTTP.Status == tt.status && e.HTTP.Version == map[int]string{1: "1.1", 2: "2"}[version.number] &&
					e.Rule == tt.rule && e.Reason == tt.reason && strings.HasPrefix(tt.path, e.HTTP.Path) && (s.body.Event == "" || s.body.Event == e.ID)
			})
			if !strings.Contains(e.Message, tt.fault) {
				t.Errorf("%s, %s: the event says %q", version.option, tt.name, e.Message)
			}
		}
	}
	explain := func(arguments ...string) string {
		r := h.run(h.sallyport(append([]string{"policy", "explain", "--config", daemonConfig, "--workload", "pager"}, arguments...)...))
		return r.stdout + r.stderr
	}
	for _, tt := range []struct {
		url, team string
		want      []string
	}{
		{"https://api.example.com/pages/x?per_page=5", "a", []string{"small-pages", "allow"}},
		{"https://api.example.com/pages/x?per_page=500", "b", []string{"small-pages", "when", "team-b"}},
		{"https://api.example.com/pages/x", "a", []string{"small-pages", "no such key: per_page", "rule_denied"}},
	} {
		if out := explain("--header", "X-Team: "+tt.team, tt.url); !containsWords(out, tt.want) {
			t.Errorf("policy explain %s: %s", tt.url, out)
		}
	}
	// A broken expression is told with its place, and the one before stays.
	broken := strings.Replace(h.config(whenPolicy), `"b" in request.headers["x-team"]`, `"b" in request.haeders["x-team"]`, 1)
	h.write(daemonConfig, broken)
	at := 0
	for i, line := range strings.Split(broken, "\n") {
		if strings.Contains(line, "haeders") {
			at = i + 1
			break
		}
	}
	want := []string{strings.Join([]string{daemonConfig, strconv.Itoa(at), ""}, ":"), "undeclared reference to 'request.haeders'"}
	for _, command := range [][]string{{"reload", "--config", daemonConfig}, {"config", "check", daemonConfig}} {
		if r := h.run(h.sallyport(command...)); r.code == 0 || !containsWords(r.stderr+r.stdout, want) {
			t.Errorf("%v: %v, want %q", command, r, want)
		}
	}
	// exec reads the file for itself, and would refuse it too.
	config = "/srv/daemon/before.yaml"
	h.write(config, h.config(whenPolicy))
	if s := ask("--http1.1", "https://api.example.com/pages/x?per_page=101", "-H", "X-Team: b"); s.status != 200 {
		t.Errorf("after a reload that was refused: %+v", s)
	}
	eventually(t, 5*time.Second, "the page says that the reload failed", func() bool { return h.scrape("sallyport_config_last_reload_successful") == 0 })
	h.write(daemonConfig, h.config(whenPolicy))
}

func containsWords(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}
