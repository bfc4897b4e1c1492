package e2e

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// configStatus asks the daemon.
func (h *host) configStatus() (s struct {
	Ready  bool
	Config struct{ Hash, Error string }
}) {
	h.t.Helper()
	h.statusInto(&s)
	return s
}

// exchangeRules gives the rule of each exchange in the audit.
func (h *host) exchangeRules() []string {
	h.t.Helper()
	var rules []string
	for _, e := range h.audit() {
		if e.Kind == audit.Exchange {
			rules = append(rules, e.Rule)
		}
	}
	return rules
}

// TestReload: by command, by signal and by a change of the file; a broken file
// changes nothing and says where.
func TestReload(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	policy := func(name string) string {
		return h.config("metrics: { listen: 127.0.0.1:9595 }\nrules:\n  - { name: " + name + ", match: { cidrs: [" + originV4 + "/32], ports: [80] }, action: allow }\n")
	}
	// Elsewhere than in the directory that is watched, to see each way by itself.
	d := h.startDaemon(policy("first"))
	i := h.startInmate(h.execBy(inmatePath)...)
	rule := func() string {
		t.Helper()
		before := len(h.exchangeRules())
		if o := i.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
			return o.Answer
		}
		eventually(t, 5*time.Second, "the exchange is in the audit", func() bool { return len(h.exchangeRules()) > before })
		rules := h.exchangeRules()
		return rules[len(rules)-1]
	}
	inForce := func(want string) {
		t.Helper()
		eventually(t, 10*time.Second, want+" is in force", func() bool { return rule() == want })
	}
	metric := func() string {
		return strings.TrimSpace(h.sh("curl -sS http://127.0.0.1:9595/metrics | grep ^sallyport_config_last_reload_successful").stdout)
	}
	inForce("first")
	before := h.configStatus()
	if before.Config.Error != "" {
		t.Errorf("at the start: %+v", before)
	}
	eventually(t, 5*time.Second, "the metric, at the start", func() bool { return metric() == "sallyport_config_last_reload_successful 1" })
	h.write(daemonConfig, policy("second")) // a change of the file
	inForce("second")
	if s := h.configStatus(); s.Config.Hash == before.Config.Hash || s.Config.Error != "" {
		t.Errorf("after a change: %+v", s)
	}

	broken := strings.Replace(policy("third"), "cidrs", "cidrz", 1)
	h.write(daemonConfig, broken)
	where := daemonConfig + ":"
	eventually(t, 10*time.Second, "the broken file is noticed", func() bool { return h.configStatus().Config.Error != "" })
	s := h.configStatus()
	if !strings.Contains(s.Config.Error, where) || !strings.Contains(s.Config.Error, `unknown field "cidrz" (did you mean "cidrs"?)`) || !s.Ready {
		t.Errorf("status with a broken file: %+v", s)
	}
	eventually(t, 5*time.Second, "the metric", func() bool { return metric() == "sallyport_config_last_reload_successful 0" })
	h.waitAudit("the refused reload", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, where)
	})
	if got := rule(); got != "second" {
		t.Errorf("with a broken file rule %q is in force", got)
	}
	r := h.run(h.sallyport("reload", "--config", daemonConfig))
	if r.code != 2 || !strings.Contains(r.stderr, where) {
		t.Errorf("reload of a broken file: %v", r)
	}
	h.kill(d.pid, unix.SIGHUP)
	if got := rule(); got != "second" || !living(d.pid) {
		t.Errorf("SIGHUP with a broken file: rule %q", got)
	}

	h.write(daemonConfig, policy("fourth"))
	r = h.run(h.sallyport("reload", "--config", daemonConfig))
	if r.code != 0 || !strings.HasPrefix(r.stdout, "reloaded") {
		t.Errorf("reload: %v", r)
	}
	if got := rule(); got != "fourth" {
		t.Errorf("after reload rule %q is in force", got)
	}
	if s := h.configStatus(); s.Config.Error != "" {
		t.Errorf("after a good reload: %+v", s)
	}
	eventually(t, 5*time.Second, "the metric, after a good reload", func() bool { return metric() == "sallyport_config_last_reload_successful 1" })
	h.write("/srv/daemon/next.yaml", policy("fifth"))
	h.sh("mv /srv/daemon/next.yaml " + daemonConfig) // as editors do
	inForce("fifth")
	h.write(daemonConfig, policy("sixth"))
	h.kill(d.pid, unix.SIGHUP)
	inForce("sixth")
	// What is bound to the kernel cannot change.
	h.write(daemonConfig, strings.Replace(policy("seventh"), "nft_table: ", "nft_table: x", 1))
	eventually(t, 10*time.Second, "the refusal", func() bool { return strings.Contains(h.configStatus().Config.Error, "nft_table cannot change") })
	if got := rule(); got != "sixth" {
		t.Errorf("rule %q is in force", got)
	}
	h.write(daemonConfig, policy("eighth"))
	inForce("eighth")
}
