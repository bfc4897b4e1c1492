package metrics

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

var update = flag.Bool("update", false, "write the golden page anew")

// A clock that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

type fakeDatapath struct {
	refusals map[string]uint64
	live     []LiveFlow
	lost     uint64
	err      error
}

func (d *fakeDatapath) Refusals() (map[string]uint64, error) { return d.refusals, d.err }
func (d *fakeDatapath) EventsLost() (uint64, error)          { return d.lost, d.err }
func (d *fakeDatapath) LiveFlows() ([]LiveFlow, error)       { return d.live, d.err }

type fakeGuard struct {
	n   uint64
	err error
}

func (g *fakeGuard) RejectedPackets() (uint64, error) { return g.n, g.err }

type fakeAudit struct{}

func (fakeAudit) Stats() audit.Stats {
	return audit.Stats{
		Events: map[audit.Kind]uint64{audit.Exchange: 7, audit.Refused: 2},
		Sinks: []audit.SinkStats{
			{
				Name: "file", Failures: 1, Lost: 3,
				QueueEvents: 5, QueueEventsCapacity: 32768, QueueBytes: 3000, QueueBytesCapacity: 16 << 20,
			},
			{Name: "syslog", Failures: 2, Lost: 4, QueueEvents: 6, QueueEventsCapacity: 32768, QueueBytesCapacity: 16 << 20},
		},
		FollowersCapacity: 32,
	}
}

func page(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

type fakeHost struct{}

func (fakeHost) HostFigures() (HostFigures, error) {
	return HostFigures{Certificates: []Certificate{{"root", time.Date(2036, 3, 4, 5, 6, 7, 0, time.UTC)}, {"issuing", time.Date(2026, 3, 11, 5, 6, 7, 0, time.UTC)}}, ClockBack: 1}, nil
}

// busy is a page with something in every family.
func busy() *Metrics {
	c := &clock{time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	m := New(Options{
		Version: "0.1.0", Revision: "abc1234", Now: c.now,
		Datapath: &fakeDatapath{
			refusals: map[string]uint64{"no_listener": 4, "map_full": 1},
			lost:     6,
			live:     []LiveFlow{{Workload: "github", Leg: WorkloadLeg, Sent: 1000, Received: 2000, Retransmits: 1}},
		},
		Guard: &fakeGuard{n: 12},
		Host:  fakeHost{},
		Audit: fakeAudit{},
		HTTP2Closed: func(yield func(string, uint64) bool) {
			_ = yield("rapid_reset", 2) && yield("ping_flood", 0)
		},
		Targets: func(yield func(Target) bool) {
			_ = yield(Target{"search", "api1.example.com:443", true}) && yield(Target{"search", "api2.example.com:443", false})
		},
		Resources: func() []Resource { return []Resource{{"flows", 3, 65536}, {"leaf_cache", 10, 4096}} },
	})
	m.SetEnforcementActive(true)
	m.SetReload(true, c.t)
	m.SetReload(false, c.t.Add(time.Hour))
	w := m.Workload("github")
	w.FlowOpened(policy.Inspect, policy.Allow)
	w.FlowOpened(policy.Tunnel, policy.WouldDeny)
	w.FlowClosed()
	w.FlowRefused(policy.Inspect)
	w.LegClosed(WorkloadLeg, 500, 700, 0, 80*time.Microsecond)
	w.LegClosed(UpstreamLeg, 510, 720, 2, 30*time.Millisecond)
	w.DNSQuery(policy.Allow)
	w.DNSQuery(policy.Deny)
	w.TLSRejected()
	w.PinnedTunnel()
	r := w.Rule("github-read")
	r.Request(&Request{Method: "GET", Status: 200, Duration: 12 * time.Millisecond, Upstream: 10 * time.Millisecond, ResponseBytes: 5120})
	r.Request(&Request{Method: "PROPFIND", Status: 207, Duration: 20 * time.Minute, Upstream: time.Second, RequestBytes: 100})
	w.Rule("").Denied(policy.NoRule, policy.Deny)
	w.Rule("").Request(&Request{Method: "POST", Status: 403, Duration: 100 * time.Microsecond})
	w.Rule("block").Denied(policy.RuleDenied, policy.WouldDeny)
	r.Denied(policy.RateLimited, policy.Deny)
	r.Denied(policy.Throttled, policy.Deny)
	r.Denied(policy.Throttled, policy.WouldDeny)
	m.CacheRequest(exchange.CacheHit)
	m.Workload("other-name").FlowRefused(policy.Direct)
	m.Handshake(WorkloadSide, HandshakeOK)
	m.Handshake(UpstreamSide, HandshakeRejected)
	return m
}

func TestGoldenPage(t *testing.T) {
	got := regexp.MustCompile(`goversion="[^"]*"`).ReplaceAllString(page(t, busy()), `goversion="GO"`)
	golden := filepath.Join("testdata", "page.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the page has changed (-update writes it anew):\n%s", diff)
	}
}

// contractFamilies are the families of contract.md §6 that exist now.
var contractFamilies = []string{
	"flows_total", "flows_active", "flow_sent_bytes_total", "flow_received_bytes_total", "flow_retransmits_total", "flow_rtt_seconds",
	"requests_total", "request_duration_seconds", "upstream_duration_seconds", "http_request_bytes_total", "http_response_bytes_total",
	"denied_total", "tls_handshakes_total", "tls_client_rejected_total", "tls_pinned_tunnels_total", "dns_queries_total", "guard_rejected_packets_total",
	"bpf_refused_total", "bpf_events_lost_total", "resource_entries", "resource_capacity", "audit_events_total", "audit_failures_total", "enforcement_active", "enforcement_locks", "http2_closed_total", "foreign_sockets_total",
	"ca_expiry_timestamp_seconds", "clock_jumps_total",
	"rate_limited_total", "cache_requests_total", "upstream_target_healthy",
	"config_last_reload_successful", "config_last_reload_success_timestamp_seconds", "build_info",
}

func TestFamiliesAreThoseOfTheContract(t *testing.T) {
	families, err := busy().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range families {
		name, ours := strings.CutPrefix(f.GetName(), "sallyport_")
		if !ours {
			t.Errorf("%s has not our prefix", f.GetName())
		}
		got[name] = true
	}
	for _, name := range contractFamilies {
		if !got[name] {
			t.Errorf("%s is missing", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s is not in the contract", name)
	}
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(busy().Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("%v: scripts/setup test installs it", err)
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(page(t, busy()))
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRuntimeFamilies(t *testing.T) {
	text := page(t, New(Options{Runtime: true}))
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestFailingSourcesLeaveTheRest: a page without the kernel's figures is better
// than none.
func TestFailingSourcesLeaveTheRest(t *testing.T) {
	broken := errors.New("no map")
	m := New(Options{Datapath: &fakeDatapath{err: broken}, Guard: &fakeGuard{err: broken}})
	m.Workload("w").FlowOpened(policy.Inspect, policy.Allow)
	m.Workload("w").LegClosed(WorkloadLeg, 1, 2, 3, 0)
	text := page(t, m)
	for _, want := range []string{"sallyport_flows_total{", "sallyport_build_info{", "sallyport_flow_sent_bytes_total{"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, not := range []string{"guard_rejected", "bpf_refused", "bpf_events_lost"} {
		if strings.Contains(text, not) {
			t.Errorf("%s is there", not)
		}
	}
}

func value(t *testing.T, m *Metrics, series string) string {
	t.Helper()
	for line := range strings.Lines(page(t, m)) {
		if v, found := strings.CutPrefix(line, "sallyport_"+series+" "); found {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func TestCountersNeverFall(t *testing.T) {
	d := &fakeDatapath{}
	m := New(Options{Datapath: d})
	const series = `flow_sent_bytes_total{leg="workload",workload="w"}`
	steps := []struct {
		name string
		do   func()
		want string
	}{
		{"open", func() { d.live = []LiveFlow{{Workload: "w", Sent: 100}} }, "100"},
		{"more", func() { d.live[0].Sent = 150 }, "150"},
		{"left the kernel, its totals have not come", func() { d.live = nil }, "150"},
		{"closed", func() { m.Workload("w").LegClosed(WorkloadLeg, 180, 0, 0, 0) }, "180"},
		{"the source fails", func() { d.err = errors.New("x") }, "180"},
		{"another", func() { d.err = nil; d.live = []LiveFlow{{Workload: "w", Sent: 5}, {Workload: "w", Sent: 6}} }, "191"},
	}
	for _, s := range steps {
		s.do()
		if got := value(t, m, series); got != s.want {
			t.Errorf("%s: %s, want %s", s.name, got, s.want)
		}
	}
}

func TestHostileNames(t *testing.T) {
	m := New(Options{})
	for _, name := range []string{"a\xffb", "a\xfeb", "\n\"\\", strings.Repeat("é", 500), ""} {
		w := m.Workload(name)
		w.FlowOpened(policy.Inspect, policy.Allow)
		w.Rule(name).Request(&Request{Method: name, Status: -5})
	}
	text := page(t, m)
	if n := strings.Count(text, "sallyport_flows_total{"); n != 4 { // the first two are the same label
		t.Errorf("%d series:\n%s", n, text)
	}
	if !strings.Contains(text, `code="other",method="other"`) {
		t.Error("an impossible status or method is not other")
	}
}

func TestWorkloadBound(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	m := New(Options{Now: c.now})
	for i := range MaxWorkloads + 5 {
		m.Workload(fmt.Sprint("w", i)).DNSQuery(policy.Allow)
	}
	if got := value(t, m, `dns_queries_total{verdict="allow",workload="other"}`); got != "5" {
		t.Errorf("other: %q", got)
	}
	if got := value(t, m, `resource_entries{resource="metric_workloads"}`); got != fmt.Sprint(MaxWorkloads) {
		t.Errorf("entries: %q", got)
	}
	// A place that becomes free is used.
	m.Living(func(name string) bool { return name != "w0" })
	c.t = c.t.Add(KeepEnded + time.Second)
	if w := m.Workload("late"); w.name != "late" {
		t.Errorf("got the handle of %q", w.name)
	}
}

func TestEndedWorkloadLeaves(t *testing.T) {
	nobody := func(string) bool { return false }
	c := &clock{time.Unix(1e9, 0)}
	d := &fakeDatapath{}
	m := New(Options{Now: c.now, Datapath: d})
	const series = `flow_sent_bytes_total{leg="workload",workload="w"}`
	w := m.Workload("w")
	w.FlowOpened(policy.Inspect, policy.Allow)
	w.LegClosed(WorkloadLeg, 7, 0, 0, 0)
	w.Rule("r")
	m.Living(nobody)
	c.t = c.t.Add(KeepEnded + time.Second)
	if got := value(t, m, series); got != "7" {
		t.Errorf("with an open flow: %q", got)
	}
	w.FlowClosed()
	if got := value(t, m, series); got != "" {
		t.Errorf("after its time: %q", got)
	}
	if got := value(t, m, `resource_entries{resource="metric_rules"}`); got != "0" {
		t.Errorf("its rules: %q", got)
	}
	// It begins at zero when it comes back, and coming back in time keeps it.
	m.Workload("w").LegClosed(WorkloadLeg, 1, 0, 0, 0)
	m.Living(nobody)
	c.t = c.t.Add(KeepEnded - time.Second)
	m.Workload("w").LegClosed(WorkloadLeg, 1, 0, 0, 0)
	c.t = c.t.Add(KeepEnded)
	if got := value(t, m, series); got != "2" {
		t.Errorf("came back: %q", got)
	}
	// One that is said to live stays, however long it is silent.
	m.Living(nobody)
	m.Living(func(name string) bool { return name == "w" })
	c.t = c.t.Add(2 * KeepEnded)
	if got := value(t, m, series); got != "2" {
		t.Errorf("alive and silent: %q", got)
	}
}

func TestRuleBound(t *testing.T) {
	m := New(Options{})
	w := m.Workload("w")
	for i := range MaxRules + 3 {
		w.Rule(fmt.Sprint("r", i))
	}
	if r := w.Rule("one more"); r.name != OtherName || r != w.Rule("and another") {
		t.Errorf("rule %q", r.name)
	}
	if r := w.Rule("r5"); r.name != "r5" {
		t.Errorf("a known rule became %q", r.name)
	}
}

// TestStatusBound: an upstream that answers with every status there is cannot
// fill the page.
func TestStatusBound(t *testing.T) {
	m := New(Options{})
	r := m.Workload("w").Rule("r")
	for status := range 700 {
		for _, method := range []string{"GET", "POST", "X"} {
			r.Request(&Request{Method: method, Status: status})
		}
	}
	text := page(t, m)
	if n := strings.Count(text, "sallyport_requests_total{"); n > maxCells {
		t.Errorf("%d series", n)
	}
	total := uint64(0)
	for _, cell := range r.requests.all() {
		total += cell.n.Load()
	}
	if total != 2100 {
		t.Errorf("%d requests are counted, want 2100", total)
	}
}

func BenchmarkRequest(b *testing.B) {
	r := New(Options{}).Workload("w").Rule("r")
	q := &Request{Method: "GET", Status: 200, Duration: 3 * time.Millisecond, Upstream: 2 * time.Millisecond, ResponseBytes: 100}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			r.Request(q)
		}
	})
}

func BenchmarkWorkload(b *testing.B) {
	m := New(Options{})
	m.Workload("w")
	b.ReportAllocs()
	for b.Loop() {
		m.Workload("w").Rule("r")
	}
}

func TestRequestDoesNotAllocate(t *testing.T) {
	w := New(Options{}).Workload("w")
	r := w.Rule("r")
	q := &Request{Method: "GET", Status: 200, Duration: time.Millisecond}
	n := testing.AllocsPerRun(100, func() {
		r.Request(q)
		r.Denied(policy.NoRule, policy.Deny)
		w.FlowOpened(policy.Inspect, policy.Allow)
		w.LegClosed(WorkloadLeg, 1, 2, 3, time.Millisecond)
		w.FlowClosed()
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
