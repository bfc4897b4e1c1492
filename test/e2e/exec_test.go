package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// exec prepares `sallyport exec` of a command, with a policy or, where that is
// empty, without a configuration file.
func (h *host) exec(policy string, argv ...string) []string {
	h.t.Helper()
	args := []string{h.binary, "exec"}
	if policy != "" {
		h.write("/srv/policy.yaml", policy)
		args = append(args, "--config", "/srv/policy.yaml")
	}
	return append(append(args, "--"), argv...)
}

// config gives a configuration of this host's with rules.
func (h *host) config(rest string) string {
	return fmt.Sprintf(`version: 1
slice: %s
nft_table: %s
tls: { upstream_ca_files: [/usr/local/share/ca-certificates/internet.crt] }
audit: { file: { path: /var/log/sallyport/audit.jsonl } }
%s`, h.slice, strings.ReplaceAll(h.name, "-", "_"), rest)
}

// audit reads every event of the host's audit files.
func (h *host) audit() []audit.Event {
	h.t.Helper()
	var all []audit.Event
	paths, _ := filepath.Glob(h.path("/srv/sallyport-audit.*.jsonl"))
	paths = append(paths, h.path("/var/log/sallyport/audit.jsonl"))
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		r := audit.NewReader(f)
		for {
			var e audit.Event
			if _, err := r.Next(&e); err != nil {
				break
			}
			all = append(all, e)
		}
		f.Close()
	}
	return all
}

// waitAudit waits for an event that satisfies want.
func (h *host) waitAudit(what string, want func(*audit.Event) bool) audit.Event {
	h.t.Helper()
	for start := time.Now(); ; {
		all := h.audit()
		for i := range all {
			if want(&all[i]) {
				return all[i]
			}
		}
		if late(start, 10*time.Second) {
			for _, e := range all {
				h.t.Logf("audit: %s %s %s reason=%q rule=%q host=%q dst=%v msg=%q", e.Kind, e.Verdict, e.Workload.Name, e.Reason, e.Rule, e.HTTP.Host, e.Dst, e.Message)
			}
			h.t.Fatalf("no audit event: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}

}

// TestExecWithoutConfig: one command on a bare host, as in the README's first
// line.
func TestExecWithoutConfig(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := h.run(h.command(h.exec("", "curl", "-sS", "https://api.example.com/hello?q=1")...))
	if r.code != 0 || !strings.Contains(r.stdout, `"path":"/hello?q=1"`) {
		t.Fatalf("curl: %v", r)
	}
	e := h.waitAudit("the exchange", func(e *audit.Event) bool { return e.Kind == audit.Exchange })
	if e.HTTP.Host != "api.example.com" || e.HTTP.Path != "/hello" || e.HTTP.Status != 200 || e.Verdict != "would_deny" || e.Workload.PID == 0 {
		t.Errorf("exchange: %+v", e)
	}
}
