package report

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sallyport/pkg/audit"
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func exchanged(workload, rule, host string, status int, change func(*audit.Event)) *audit.Event {
	e := &audit.Event{
		Time: at, ID: "id", Kind: audit.Exchange, Verdict: "allow", Rule: rule, Workload: audit.Workload{Name: workload},
		Dst:  audit.Destination{Host: host},
		HTTP: audit.HTTP{Method: "GET", Path: "/p", Status: status, RequestBytes: 10, ResponseBytes: 1000},
	}
	e.Duration.Total = time.Millisecond
	if change != nil {
		change(e)
	}
	return e
}

func denied(reason string) func(*audit.Event) {
	return func(e *audit.Event) { e.Verdict, e.Reason = "deny", reason }
}

func table(t *testing.T, s *Summary, name string) Table {
	t.Helper()
	for _, table := range s.Tables {
		if table.Name == name {
			return table
		}
	}
	t.Fatalf("no table %q", name)
	return Table{}
}

// TestTables: each event is counted where somebody looks for it, and nowhere
// else.
func TestTables(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		event *audit.Event
		want  map[string]string // table → first row
	}{
		{exchanged("w", "r", "h", 200, nil), map[string]string{"workloads": "[w] 1 0", "hosts": "[h] 1 0", "rules": "[r] 1 0"}},
		{
			exchanged("w", "r", "h", 429, denied("rate_limited")),
			map[string]string{"workloads": "[w] 1 1", "hosts": "[h] 1 1", "rules": "[r] 1 1", "rate_limited": "[w r rate_limited] 1 0", "denied": "[rate_limited w r h] 1 0"},
		},
		{
			exchanged("w", "r", "h", 401, denied("auth_required")),
			map[string]string{"workloads": "[w] 1 1", "hosts": "[h] 1 1", "rules": "[r] 1 1", "authentication": "[w r auth_required h] 1 0", "denied": "[auth_required w r h] 1 0"},
		},
		{
			exchanged("w", "r", "h", 403, nil),
			map[string]string{"workloads": "[w] 1 0", "hosts": "[h] 1 0", "rules": "[r] 1 0", "authentication": "[w r upstream answered 403 h] 1 0"},
		},
		{
			exchanged("w", "r", "h", 503, nil),
			map[string]string{"workloads": "[w] 1 0", "hosts": "[h] 1 0", "rules": "[r] 1 0", "server_errors": "[h 503 answered by the upstream] 1 0"},
		},
		{
			exchanged("w", "r", "h", 502, denied("upstream_tls")),
			map[string]string{"workloads": "[w] 1 1", "hosts": "[h] 1 1", "rules": "[r] 1 1", "server_errors": "[h 502 upstream_tls] 1 0", "denied": "[upstream_tls w r h] 1 0"},
		},
		{
			exchanged("w", "r", "h", 403, denied("secret_found")),
			map[string]string{"workloads": "[w] 1 1", "hosts": "[h] 1 1", "rules": "[r] 1 1", "filtered": "[w r secret_found h] 1 0", "denied": "[secret_found w r h] 1 0"},
		},
		{
			exchanged("w", "", "h", 200, func(e *audit.Event) { e.Verdict, e.Reason, e.Cache = "would_deny", "no_rule", "hit" }),
			map[string]string{"workloads": "[w] 1 0", "hosts": "[h] 1 0", "rules": "[] 1 0", "would_deny": "[no_rule w  h] 1 0", "cache": "[hit] 1 0"},
		},
		{
			&audit.Event{Time: at, Kind: audit.Refused, Verdict: "deny", Reason: "udp_refused", Workload: audit.Workload{Name: "w"}, Dst: audit.Destination{IP: netip.MustParseAddr("::ffff:203.0.113.9")}, Count: 7},
			map[string]string{"denied": "[udp_refused w  203.0.113.9] 7 0"},
		},
		{
			&audit.Event{Time: at, Kind: audit.DNS, Verdict: "deny", Reason: "no_rule", Workload: audit.Workload{Name: "w"}, DNS: audit.DNSQuery{Name: "x.example"}},
			map[string]string{"denied": "[no_rule w  x.example] 1 0"},
		},
		{
			&audit.Event{Time: at, Kind: audit.TLSRejected, Workload: audit.Workload{Name: "w"}, TLS: audit.TLS{SNI: "x.example"}},
			map[string]string{"tls_rejected": "[w x.example] 1 0"},
		},
		{
			// Its exchange was counted; the flow's own end is not another refusal.
			&audit.Event{Time: at, Kind: audit.FlowClose, Verdict: "deny", Reason: "no_rule", TLS: audit.TLS{Handling: "inspect"}, Workload: audit.Workload{Name: "w"}},
			map[string]string{},
		},
	} {
		r := New(10)
		r.Add(tt.event)
		s := r.Summary()
		got := map[string]string{}
		for _, table := range s.Tables {
			if len(table.Rows) > 0 {
				row := table.Rows[0]
				got[table.Name] = fmt.Sprint(row.Names, row.Count, row.Denied)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s %s:\ngot  %v\nwant %v", tt.event.Kind, tt.event.Reason, got, tt.want)
		}
	}
}

// TestBounds: memory does not grow with what events name, and nothing that was
// counted is lost.
func TestBounds(t *testing.T) {
	t.Parallel()
	r := New(3)
	const n = 2 * maxGroups
	for i := range n {
		e := exchanged("w", "r", fmt.Sprintf("h%d", i), 200, nil)
		e.Duration.Total = time.Duration(i%1000+1) * time.Millisecond
		e.HTTP.ResponseBytes = int64(i % 777)
		r.Add(e)
	}
	s := r.Summary()
	hosts := table(t, &s, "hosts")
	if len(hosts.Rows) != 3 || hosts.Groups != maxGroups+1 || hosts.Rows[0].Names[0] != Other || hosts.Rows[0].Count != n-maxGroups {
		t.Errorf("%d groups, first %v", hosts.Groups, hosts.Rows[0])
	}
	if len(s.Slowest) != 3 || s.Slowest[0].Total != 1 || s.Slowest[0].Request != "GET h999/p" || len(s.Largest) != 3 || s.Largest[0].Received != 776 {
		t.Errorf("%v\n%v", s.Slowest, s.Largest)
	}
	if s.Events != n || !s.First.Equal(at) || !s.Last.Equal(at) {
		t.Errorf("%d events, %v to %v", s.Events, s.First, s.Last)
	}
}

// TestLongTexts: what a workload makes long is kept short, as whole characters.
func TestLongTexts(t *testing.T) {
	t.Parallel()
	r := New(3)
	for _, end := range []string{"a", "b"} {
		r.Add(exchanged("w", "r", strings.Repeat("ä", maxName)+end, 200, nil))
	}
	s := r.Summary()
	hosts := table(t, &s, "hosts")
	if want := strings.Repeat("ä", maxName/2) + "…"; hosts.Groups != 1 || hosts.Rows[0].Names[0] != want || hosts.Rows[0].Count != 2 {
		t.Errorf("%d groups, first %v", hosts.Groups, hosts.Rows[0])
	}
	for _, e := range append(s.Slowest, s.Largest...) {
		if len(e.Request) > maxName+len("…") || !utf8.ValidString(e.Request) {
			t.Errorf("request of %d bytes: %q", len(e.Request), e.Request)
		}
	}
}

// TestNothing: a report without events has lists all the same, for who reads it
// as JSON.
func TestNothing(t *testing.T) {
	t.Parallel()
	s := New(1).Summary()
	if s.Slowest == nil || s.Largest == nil || s.Events != 0 || !s.First.IsZero() {
		t.Errorf("%+v", s)
	}
	for _, table := range s.Tables {
		if table.Rows == nil || len(table.Rows) != 0 {
			t.Errorf("%s: %v", table.Name, table.Rows)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	r := New(10)
	var events []*audit.Event
	for i := range 1000 {
		events = append(events, exchanged(fmt.Sprintf("w%d", i%7), fmt.Sprintf("r%d", i%20), fmt.Sprintf("h%d", i%90), 200+i%5, nil))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Add(events[i%len(events)])
		i++
	}
}
