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
	r := h.run(h.sallyport("status", "--json", "--config", "/srv/daemon/policy.yaml"))
	var s statusReport
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		h.t.Fatalf("status: %v: %v", err, r)
	}
	return s
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
	r := h.sh("curl -sS --max-time 30 http://127.0.0.1:9595/metrics")
	if r.code != 0 {
		h.t.Fatalf("metrics: %v", r)
	}
	return r.stdout
}

// auditOf gives the events of a kind.
func (h *host) auditOf(kind audit.Kind) []audit.Event {
	h.t.Helper()
	return slices.DeleteFunc(h.audit(), func(e audit.Event) bool { return e.Kind != kind })
}
