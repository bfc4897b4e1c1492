package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"sallyport/pkg/report"
)

// TestMonitoring: a real Prometheus reads the page of a real daemon with the
// alerts loaded. Each expression of the dashboard and of the alerts can be
// evaluated, and shows what has happened; what is wrong becomes an alert.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	m := newMonitored(t, "")
	m.startPrometheus()
	m.traffic()
	m.scraped() // so that the next round is an increase
	held := m.command(m.execBy("curl", "-sS", "-o", "/dev/null", "https://api.example.com/plain/held")...)
	if err := held.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(m.release); held.Wait() })
	m.traffic()
	m.scraped()

	page := m.metricsPage()
	golden, err := os.ReadFile("../../pkg/metrics/testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	types := regexp.MustCompile(`(?m)^# TYPE (sallyport_\S+) \S+$`)
	live := map[string]bool{}
	for _, f := range types.FindAllStringSubmatch(page, -1) {
		live[f[1]] = true
	}
	for _, f := range types.FindAllStringSubmatch(string(golden), -1) {
		if !live[f[1]] {
			t.Errorf("%s is not on the live page", f[1])
		}
	}

	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(monitoring(t, "dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	// What has no reason to be above 0 here. The clock is the machine's: setting it
	// would set it for every test beside this one.
	still := []string{"Audit failures", "Round trips and losses", "Clock jumps, since start"}
	replace := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$workload", ".*")
	queries := 0
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			queries++
			expr := replace.Replace(target.Expr)
			a := m.query(expr)
			// What the kernel has counted is on the page a little later.
			for start := time.Now(); a.err == "" && a.most() <= 0 && !slices.Contains(still, p.Title) && !late(start, 15*time.Second); a = m.query(expr) {
				time.Sleep(200 * time.Millisecond)
			}
			if a.err != "" || len(a.values) == 0 {
				t.Errorf("%s: %s: %d rows, %s", p.Title, target.Expr, len(a.values), a.err)
			} else if a.most() <= 0 && !slices.Contains(still, p.Title) {
				t.Errorf("%s: %s: %v, although it happened", p.Title, target.Expr, a.values)
			}
		}
	}
	if queries < 30 {
		t.Errorf("%d queries", queries)
	}

	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal([]byte(monitoring(t, "alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if a := m.query(r.Expr); a.err != "" {
				t.Errorf("%s: %s", r.Alert, a.err)
			}
			// A name that is left out must be one that there is.
			for _, out := range regexp.MustCompile(`resource!~"([^"]+)"`).FindAllStringSubmatch(r.Expr, -1) {
				for _, name := range strings.Split(out[1], "|") {
					if !strings.Contains(page, `sallyport_resource_entries{resource="`+name+`"}`) {
						t.Errorf("%s leaves out %s, which is no resource", r.Alert, name)
					}
				}
			}
		}
	}

	// What the alerts and their table tell people to run can be run.
	commands := map[string]bool{}
	for _, file := range []string{"alerts.yaml", "README.md"} {
		for _, f := range regexp.MustCompile("`sallyport ([^`]+)`").FindAllStringSubmatch(monitoring(t, file), -1) {
			commands[strings.NewReplacer("{{ $labels.workload }}", "sender", "FILE", "/var/log/sallyport/audit.jsonl").Replace(f[1])] = true
		}
	}
	for command := range commands {
		if command == "doctor" {
			continue // looks at the whole machine
		}
		if r := m.sh(m.binary + " " + command + " --config " + daemonConfig); r.code > 1 {
			t.Errorf("sallyport %s: %v", command, r)
		}
	}
	if len(commands) < 8 {
		t.Errorf("%d commands", len(commands))
	}

	want := map[string]string{
		"SallyportTargetUnhealthy search other.example.com:9": ": the target other.example.com:9 of upstream search is not healthy",
		"SallyportNoHealthyTarget gone":                       ": no target of upstream gone is healthy",
		"SallyportSecretFound":                                "firing: sender tried to send a secret",
	}
	missing := func(got map[string]string) (list []string) {
		for name, text := range want {
			if !strings.HasSuffix(got[name], text) {
				list = append(list, fmt.Sprintf("%s: %q", name, got[name]))
			}
		}
		return list
	}
	got := m.alerts()
	for start := time.Now(); len(missing(got)) > 0; got = m.alerts() {
		if late(start, time.Minute) {
			t.Fatalf("no such alerts: %q of %v", missing(got), got)
		}
		time.Sleep(200 * time.Millisecond)
	}
	// No others of what is right, whatever the traffic was. Of a busy machine a page may
	// be late for once, which is pending; then ten seconds come in which none is.
	for name, text := range got {
		if name == "SallyportDown" && strings.HasPrefix(text, "pending") {
			eventually(t, time.Minute, "no page is late: "+text, func() bool { return m.query("min_over_time(up[10s]) == 1").most() == 1 })
			continue
		}
		for _, right := range []string{"SallyportDown", "SallyportEnforcementInactive", "SallyportConfigRejected", "SallyportAuditFailing", "SallyportNearFull", "SallyportNoHealthyTarget search"} {
			if strings.HasPrefix(name, right) {
				t.Errorf("%s is %s", name, text)
			}
		}
	}
}

// column adds a table of a report up by one of its columns.
func column(s *report.Summary, table string, i int) map[string]uint64 {
	all := make(map[string]uint64)
	for _, t := range s.Tables {
		if t.Name == table {
			for _, row := range t.Rows {
				all[row.Names[i]] += row.Count
			}
		}
	}
	return all
}

// TestReportAgrees: what report adds up from the audit, its rotated files among
// them, is what the page has counted.
func TestReportAgrees(t *testing.T) {
	t.Parallel()
	m := newMonitored(t, ", max_size: 1MiB, max_files: 20")
	m.traffic()
	if r := m.run(m.sallyport("exec", "--config", daemonConfig, "--workload", "pin", "--", "curl", "-sS", "-o", "/dev/null", "https://api.example.com/plain/[1-3000]")); r.code != 0 {
		t.Fatalf("curl: %v", r)
	}
	var files string
	of := func(filter string) (s report.Summary) {
		t.Helper()
		r := m.sh("cd /var/log/sallyport && ls && " + m.binary + " report --json --top 1000 " + filter + " audit*jsonl* > /srv/report.json")
		if err := json.Unmarshal([]byte(m.read("/srv/report.json")), &s); err != nil || r.code != 0 {
			t.Fatalf("report: %v: %v", err, r)
		}
		files = r.stdout
		return s
	}
	var s report.Summary
	// Events are written a little after they are counted.
	eventually(t, 30*time.Second, "every event that was counted is in a file", func() bool {
		s = of("")
		return maps.Equal(s.Kinds, m.sums("sallyport_audit_events_total", "kind"))
	})
	// The page counts what the kernel refused, and names, apart.
	exchanges, questions := of("--kind exchange"), of("--kind dns")
	if strings.Count(files, "\n") < 3 || s.Unreadable != 0 {
		t.Errorf("%d unreadable lines in %q", s.Unreadable, files)
	}
	five := make(map[string]uint64)
	for code, n := range m.sums("sallyport_requests_total", "code") {
		if code[0] == '5' {
			five[code] = n
		}
	}
	for _, c := range []struct {
		what         string
		report, page map[string]uint64
	}{
		{"exchanges of workloads", column(&s, "workloads", 0), m.sums("sallyport_requests_total", "workload")},
		{"exchanges of rules", column(&s, "rules", 0), m.sums("sallyport_requests_total", "rule")},
		{"server errors", column(&s, "server_errors", 1), five},
		{"rate limits", column(&s, "rate_limited", 1), m.sums("sallyport_rate_limited_total", "rule")},
		{"the cache", column(&s, "cache", 0), m.sums("sallyport_cache_requests_total", "status")},
		{"rejected certificates", column(&s, "tls_rejected", 0), m.sums("sallyport_tls_client_rejected_total", "workload")},
		{"refusals", column(&exchanges, "denied", 0), m.sums("sallyport_denied_total", "reason", `verdict="deny"`)},
		{"names", column(&questions, "denied", 1), m.sums("sallyport_dns_queries_total", "workload", `verdict="deny"`)},
		{"what observe mode lets pass", column(&s, "would_deny", 0), m.sums("sallyport_denied_total", "reason", `verdict="would_deny"`)},
	} {
		if len(c.page) == 0 || !maps.Equal(c.report, c.page) {
			t.Errorf("%s: report %v, page %v", c.what, c.report, c.page)
		}
	}
}
