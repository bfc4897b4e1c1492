package e2e

import (
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// newRedirecting makes a host whose daemon runs without BPF.
func newRedirecting(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.locks = "nft"
	return h
}

// TestRedirected: without BPF a workload's HTTP, HTTPS and DNS go through us all
// the same, what no rule allows is refused, and status, metrics and audit say that
// there is one lock.
func TestRedirected(t *testing.T) {
	t.Parallel()
	h := newRedirecting(t)
	h.putSock()
	d := h.startDaemon(h.config(twoWorkloads))
	w := h.tap()
	if r := h.run(h.inside("alpha.service", nobody, "curl", "-4sS", "http://other.example.com/first")); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatalf("alpha: %v\n%s", r, d.stderr)
	}
	if r := h.run(h.inside("beta.service", nobody, "curl", "-6sS", "http://api.example.com/second")); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatalf("beta: %v\n%s", r, d.stderr)
	}
	if r := h.run(h.inside("beta.service", nobody, "curl", "-4sS", "http://other.example.com/third")); !strings.Contains(r.stdout, "no_rule") && !strings.Contains(r.stderr, "resolve") {
		t.Errorf("beta asks for what is alpha's: %v", r)
	}
	_ = w
	s := h.status()
	if !s.Ready || !s.EnforcementActive {
		t.Errorf("status: %+v", s)
	}
	if !strings.HasPrefix(strings.Join(s.Problems, "\n"), "one lock") {
		t.Errorf("problems: %q", s.Problems)
	}
	if n := h.scrape("sallyport_enforcement_locks"); n != 1 {
		t.Errorf("%v locks", n)
	}
	eventually(t, 5*time.Second, "flows are closed", func() bool { return len(h.auditOf(audit.FlowClose)) >= 2 })
}
