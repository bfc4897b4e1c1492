package e2e

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/audit"
)

// A statusReport is what `status --json` says.
type statusReport struct {
	Ready             bool     `json:"ready"`
	EnforcementActive bool     `json:"enforcement_active"`
	Problems          []string `json:"problems"`
}

// status asks the daemon.
func (h *host) status() statusReport {
	h.t.Helper()
	var s statusReport
	h.statusInto(&s)
	return s
}

// statusInto reads what it wants of the status. A worker that has just been replaced,
// or that a busy machine keeps, may be asked again.
func (h *host) statusInto(s any) {
	h.t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		r := h.run(h.sallyport("status", "--json", "--config", daemonConfig))
		err := json.Unmarshal([]byte(r.stdout), s)
		if err == nil {
			return
		}
		if late(start, 10*time.Second) {
			h.t.Fatalf("status: %v: %v", err, r)
		}
	}
}

// waitEnforced waits until the status says that enforcement is active, and has no
// problem.
func (h *host) waitEnforced() {
	h.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		s := h.status()
		if s.EnforcementActive && len(s.Problems) == 0 {
			return
		}
		if late(start, 15*time.Second) {
			h.t.Fatalf("enforcement is not active: %+v", s)
		}
	}
}

// scrape reads one metric of the daemon; the sum where there are several lines.
func (h *host) scrape(series string) float64 {
	h.t.Helper()
	page := h.metricsPage()
	sum := 0.0
	for line := range strings.Lines(page) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if name == series || strings.HasPrefix(name, series+"{") {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				h.t.Fatalf("metrics: %q: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

func (h *host) metricsPage() (page string) {
	h.t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		r := h.sh("curl -sS --max-time 30 http://127.0.0.1:9595/metrics")
		if r.code == 0 {
			return r.stdout
		}
		if late(start, 10*time.Second) {
			h.t.Fatalf("metrics: %v", r)
		}
	}
}

// auditOf gives the events of a kind.
func (h *host) auditOf(kind audit.Kind) []audit.Event {
	h.t.Helper()
	return slices.DeleteFunc(h.audit(), func(e audit.Event) bool { return e.Kind != kind })
}
