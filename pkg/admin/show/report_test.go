package show

import (
	"strings"
	"testing"
	"time"

	"sallyport/pkg/report"
)

func TestReport(t *testing.T) {
	s := report.Summary{
		First: at, Last: at.Add(26 * time.Hour), Events: 120_000, Unreadable: 1, Kinds: map[string]uint64{"exchange": 100_000, "dns": 20_000},
		Tables: []report.Table{
			{Title: "Rate-limit violations", Columns: []string{"workload", "rule", "reason"}, Groups: 12, Rows: []report.Row{
				{Names: []string{"github", "github-read", "rate_limited"}, Count: 1200}, {Names: []string{"search", "", "throttled"}, Count: 7},
			}},
			{Title: "Cache", Columns: []string{"served"}},
			{Title: "Top hosts", Columns: []string{"host"}, Traffic: true, Groups: 2, Rows: []report.Row{
				{Names: []string{"api.github.com"}, Count: 99_000, Denied: 1200, Sent: 1e6, Received: 5e9}, {Names: []string{hostile}, Count: 1},
			}},
		},
		Slowest: []report.Extreme{{Time: at, Workload: "github", Request: "GET api.github.com/" + hostile, Status: 200, Total: 12.5, Upstream: 12.4}},
		Largest: []report.Extreme{{Time: at, Workload: "github", Request: "GET api.github.com/big", Sent: 10, Received: 3e9}},
	}
	var b strings.Builder
	if err := Report(&b, &s, time.UTC); err != nil {
		t.Fatal(err)
	}
	golden(t, "report", b.String())
	b.Reset()
	if err := Report(&b, &report.Summary{Unreadable: 2}, time.UTC); err != nil || b.String() != "no events, 2 lines that are no event\n" {
		t.Errorf("%q, %v", &b, err)
	}
}
