package show

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/admin"
	"sallyport/pkg/audit"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s has changed (-update writes it anew):\n%s", path, diff)
	}
}

var at = time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)

const hostile = "evil\x1b]0;title\a\u202e\xff\u009b31m\n"

func TestStatus(t *testing.T) {
	tests := map[string]*admin.Status{
		"status_ready": {
			Ready: true, Mode: "enforce", EnforcementActive: true, Flows: 3,
			Config: admin.Config{Hash: "3f9a1c2b7d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"},
			Workloads: []admin.Workload{
				{Name: "github", Cgroup: "/mcp.slice/mcp-github.service", Unit: "mcp-github.service", Mode: "enforce", Flows: 2},
				{Name: "npx", Cgroup: "/mcp.slice/exec-12", Command: "npx -y @modelcontextprotocol/server-everything stdio --with --many --arguments", Mode: "observe", Flows: 1, Note: "root: not confined"},
			},
			Maps: map[string]admin.Fill{"flows": {Entries: 3, Capacity: 65536}, "leaf_cache": {Entries: 2048, Capacity: 4096}, "audit_queue": {Entries: 0, Capacity: 32768}},
		},
		"status_pinned": {
			Ready: true, Mode: "enforce", EnforcementActive: true, Config: admin.Config{Hash: "3f9a"},
			Pinned: []admin.Pinned{{Workload: "github", Host: "pinned.example.com", Until: at}, {Workload: hostile, Host: "other.example.com", Until: at}},
		},
		"status_problems": {
			Mode: "observe", Config: admin.Config{Hash: "3f9a", Error: "sallyport.yaml:3:5: unknown field \"hostz\"\nsallyport.yaml:9:1: rules: empty"},
			Problems: []string{"guard: table inet sallyport is missing: flushed by another program; it is being repaired", hostile},
		},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Status(&b, s); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
}

func flows() []admin.Flow {
	return []admin.Flow{
		{ID: 1, State: admin.FlowOpen, Opened: at, Duration: 0.0042, Workload: admin.FlowWorkload{Name: "github", PID: 4711, UID: 1000},
			Dst: admin.FlowDst{IP: netip.MustParseAddr("203.0.113.9"), Port: 443, Host: "api.github.com"}, Handling: "inspect", Verdict: "allow", Rule: "github-read",
			Counters: admin.Counters{Workload: &admin.Leg{BytesSent: 812, BytesReceived: 1_234_567, RTT: 0.00008}}},
		{ID: 2, State: admin.FlowOpen, Opened: at, Duration: 7385, Workload: admin.FlowWorkload{Name: "postgres-mcp", PID: 99},
			Dst: admin.FlowDst{IP: netip.MustParseAddr("2001:db8::5"), Port: 5432}, Handling: "direct", Verdict: "allow", Rule: "db",
			Counters: admin.Counters{Upstream: &admin.Leg{BytesSent: 10, BytesReceived: 99_950_000, RTT: 0.0312}}},
		{ID: 3, State: admin.FlowClosed, Opened: at, Duration: 61, Workload: admin.FlowWorkload{Name: hostile, PID: 7},
			Dst:     admin.FlowDst{IP: netip.MustParseAddr("::ffff:203.0.113.77"), Port: 8080, Host: "a-very-long-name-that-does-not-fit-into-the-column-of-the-table.example"},
			Verdict: "would_deny", Reason: "no_rule", Direction: "inbound"},
	}
}

func TestFlows(t *testing.T) {
	var b strings.Builder
	if err := Flows(&b, flows()); err != nil {
		t.Fatal(err)
	}
	golden(t, "flows", b.String())
	b.Reset()
	if err := Flows(&b, nil); err != nil || b.String() != "no open flows\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	if err := FlowHeader(&b); err != nil {
		t.Fatal(err)
	}
	for _, f := range flows() {
		if err := Flow(&b, &f); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "flows_follow", b.String())
}

func TestEvents(t *testing.T) {
	workload := audit.Workload{Name: "github", PID: 4711}
	dst := audit.Destination{IP: netip.MustParseAddr("203.0.113.9"), Port: 443, Host: "api.github.com"}
	events := []audit.Event{
		{Kind: audit.FlowOpen, Verdict: "allow", Rule: "github-read", Workload: workload, Dst: dst, TLS: audit.TLS{Handling: "inspect"}},
		{Kind: audit.Exchange, Verdict: "allow", Rule: "github-read", Workload: workload, Dst: dst, Duration: audit.Duration{Total: 35 * time.Millisecond},
			HTTP: audit.HTTP{Method: "GET", Scheme: "https", Host: "api.github.com", Path: "/repos/x/y", Query: "per_page=100", Status: 200, ResponseBytes: 5120}},
		{Kind: audit.Exchange, Verdict: "deny", Reason: "no_rule", Workload: workload, Dst: dst, Duration: audit.Duration{Total: 90 * time.Microsecond},
			HTTP: audit.HTTP{Method: "POST", Scheme: "https", Host: "api.github.com", Path: "/" + hostile, Status: 403, RequestBytes: 12}},
		{Kind: audit.DNS, Verdict: "deny", Reason: "no_rule", Workload: workload, DNS: audit.DNSQuery{Name: "evil.example", Type: "A", Rcode: "NXDOMAIN"}},
		{Kind: audit.DNS, Verdict: "allow", Workload: workload, DNS: audit.DNSQuery{Name: "api.github.com", Type: "AAAA", Rcode: "NOERROR", Answers: []string{"2001:db8::1", "2001:db8::2"}}},
		{Kind: audit.Refused, Verdict: "deny", Reason: "udp", Count: 12, Workload: workload, Dst: audit.Destination{IP: dst.IP, Port: 443}, Message: "UDP is closed"},
		{Kind: audit.Refused, Verdict: "deny", Reason: "no_rule", Direction: "inbound", Workload: workload, Dst: audit.Destination{IP: dst.IP, Port: 8080}},
		{Kind: audit.FlowClose, Verdict: "allow", Rule: "github-read", Workload: workload, Dst: dst, Duration: audit.Duration{Total: 75 * time.Second},
			Counters: audit.Counters{Workload: audit.Leg{BytesSent: 2000, BytesReceived: 1_000_000}}},
		{Kind: audit.TLSRejected, Verdict: "deny", Workload: workload, Dst: dst, Message: "the client does not trust our certificate (unknown_ca)"},
		{Kind: audit.WebSocketOpen, Verdict: "allow", Rule: "chat", Workload: workload, Dst: dst,
			HTTP: audit.HTTP{Method: "GET", Scheme: "https", Host: "chat.example", Path: "/ws", Status: 101}},
		{Kind: audit.Exchange, Verdict: "allow", Rule: "chat", Workload: workload, Dst: dst, Duration: audit.Duration{Total: 61 * time.Second},
			HTTP:      audit.HTTP{Method: "GET", Scheme: "https", Host: "chat.example", Path: "/ws", Status: 101, RequestBytes: 900, ResponseBytes: 12000},
			WebSocket: audit.WebSocket{MessagesSent: 12, MessagesReceived: 140, CloseCode: 1000}},
		{Kind: audit.Lifecycle, Count: 4, Message: "4 events were lost here: the audit queue was full"},
		{Kind: audit.Admin, Verdict: "allow", Workload: audit.Workload{PID: 1, UID: 0}, Message: "reload: configuration 3f9a"},
	}
	var b strings.Builder
	for i := range events {
		events[i].Time = at.Add(time.Duration(i) * time.Second)
		if err := Event(&b, &events[i], time.UTC); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "tail", b.String())
}

func TestExplanation(t *testing.T) {
	var b strings.Builder
	err := Explanation(&b, &admin.Explanation{
		Verdict: "deny", Reason: "no_rule", Mode: "enforce", Handling: "inspect",
		Steps: []admin.Step{{Rule: "github-read", Why: "methods: POST is not in [GET]"}, {Rule: "block-uploads", Matched: true, Why: "action: deny"}},
		Hint:  "- name: allow-github\n  match: { hosts: [api.github.com] }\n  action: allow\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "explain", b.String())
	b.Reset()
	if err := Explanation(&b, &admin.Explanation{Verdict: "allow", Stages: []string{"size_limit", "cache"}}); err != nil || !strings.HasSuffix(b.String(), "\nThen, not tried here: size_limit, cache\n") {
		t.Errorf("%v: %s", err, b.String())
	}
}

// TestNothingSteersTheTerminal: whatever a workload calls itself, what is printed
// is lines of printable characters.
func TestNothingSteersTheTerminal(t *testing.T) {
	var b strings.Builder
	f := admin.Flow{State: hostile, Workload: admin.FlowWorkload{Name: hostile}, Dst: admin.FlowDst{Host: hostile}, Handling: hostile, Verdict: hostile, Rule: hostile, Direction: hostile}
	s := admin.Status{Mode: hostile, Config: admin.Config{Hash: hostile, Error: hostile}, Problems: []string{hostile},
		Workloads: []admin.Workload{{Name: hostile, Command: hostile, Mode: hostile, Note: hostile}}, Maps: map[string]admin.Fill{hostile: {}}}
	e := audit.Event{Kind: audit.Exchange, Verdict: hostile, Reason: hostile, Rule: hostile, Direction: hostile, Message: hostile,
		Workload: audit.Workload{Name: hostile}, HTTP: audit.HTTP{Method: hostile, Host: hostile, Path: hostile, Query: hostile, Scheme: hostile}}
	x := admin.Explanation{Verdict: hostile, Reason: hostile, Rule: hostile, Mode: hostile, Hint: hostile, Steps: []admin.Step{{Rule: hostile, Why: hostile}}}
	for _, err := range []error{Flow(&b, &f), Flows(&b, []admin.Flow{f}), Status(&b, &s), Event(&b, &e, time.UTC), Explanation(&b, &x)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if strings.ContainsAny(b.String(), "\x1b\a\u202e\u009b") || !utf8.ValidString(b.String()) {
		t.Errorf("%q", b.String())
	}
}

func FuzzClean(f *testing.F) {
	f.Add("plain é")
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x1b\a\x00\u202e\u009b") || clean(got) != got {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestSizeAndSpan(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 999: "999B", 1000: "1.0kB", 9949: "9.9kB", 9950: "10kB", 999_499: "999kB", 999_500: "1.0MB", 1_234_567: "1.2MB", 5e12: "5.0TB", 5e15: "5000TB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-1: "0s", 0: "0µs", 80 * time.Microsecond: "80µs", 1500 * time.Microsecond: "1.5ms", 35 * time.Millisecond: "35ms", 1200 * time.Millisecond: "1.2s",
		42 * time.Second: "42s", 75 * time.Second: "1m15s", 2 * time.Hour: "2h00m", 50 * time.Hour: "2d02h",
	} {
		if got := span(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}
