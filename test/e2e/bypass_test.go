package e2e

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// attentive is a policy under which a connection to port 7443 of any address
// stays open until its first bytes are read, and then leads nowhere.
const attentive = `
timeouts: { drain: 1s }
rules:
  - name: patience
    match: { hosts: [api.example.com], ports: [7443], paths: [/never] }
    action: allow
`

// A family is what differs between IPv4 and IPv6 in an attack.
type ipFamily struct {
	name, near, far, dns string
}

var ipFamilies = []ipFamily{
	{"inet", hostV4, originV4, dnsV4},
	{"inet6", hostV6, originV6, originV6},
}

// links lists the paths of our pinned links that match a pattern and whether
// each is attached.
func (h *host) links(pattern string) map[string]bool {
	h.t.Helper()
	r := h.sh(fmt.Sprintf(`for p in /sys/fs/bpf/sallyport/*/*/links/%s; do echo "$p $(bpftool link show pinned "$p" | grep -c 'cgroup_id [1-9]')"; done`, pattern))
	found := make(map[string]bool)
	for line := range strings.Lines(r.stdout) {
		path, n, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasSuffix(path, pattern) && strings.Contains(pattern, "*") && strings.Contains(path, "*") {
			h.t.Fatalf("no pinned link: %v", r)
		}
		found[path] = n == "1"
	}
	return found
}

// detach detaches our links by hand, found by their pins.
func (h *host) detach(pattern string) {
	h.t.Helper()
	r := h.sh(fmt.Sprintf(`set -e; for p in /sys/fs/bpf/sallyport/*/*/links/%s; do bpftool link detach pinned "$p" || [ ! -e "$p" ]; done`, pattern))
	if r.code != 0 {
		h.t.Fatalf("detach: %v", r)
	}
}

// flush removes every table of the host, as another program may.
func (h *host) flush() {
	h.t.Helper()
	if r := h.sh("nft flush ruleset"); r.code != 0 {
		h.t.Fatalf("flush: %v", r)
	}
}

// tabled reports whether our table is there.
func (h *host) tabled() bool {
	return strings.Contains(h.sh("nft list tables").stdout, strings.ReplaceAll(h.name, "-", "_"))
}

// waitLocks waits until both locks are back and give no problem any more; how
// soon that is, TestLocksComeBack tells.
func (h *host) waitLocks() {
	h.t.Helper()
	eventually(h.t, 30*time.Second, "both locks are back", func() bool {
		for _, attached := range h.links("*") {
			if !attached {
				return false
			}
		}
		return h.tabled()
	})
	h.waitEnforced()
}

// TestLocksComeBack: while the keeper runs, a flushed table and detached links
// are back within a second, nothing leaves in between, and status, metrics and
// audit say so.
func TestLocksComeBack(t *testing.T) {
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config(attentive))
	w := h.tap()
	hammer := h.inside("hammer", nobody, "sh", "-c", fmt.Sprintf(`while :; do
%[1]s "socket inet stream 6" "connect %[2]s 7443" "send hello"
%[1]s "socket inet6 dgram 17" "sendto %[3]s 443 hello" "connect %[3]s 53" "device eth0" "send hello"
done`, sockPath, originV4, originV6))
	if err := hammer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hammer.Process.Kill(); hammer.Wait() })
	const back = time.Second
	for _, lock := range []struct {
		name  string
		open  func()
		shut  func() bool
		audit string
	}{
		{"guard", h.flush, h.tabled, "repaired: guard: "},
		{"bpf", func() { h.detach("*") }, func() bool { return !slices.Contains(slices.Collect(maps.Values(h.links("*"))), false) }, "repaired: bpf: "},
	} {
		t.Run(lock.name, func(t *testing.T) {
			for range 3 {
				best(t, "its return", back, func() (took time.Duration) {
					lock.open()
					start := time.Now()
					// Looking takes its time as well: what counts is when the look began.
					eventually(t, 30*time.Second, "the lock is back", func() bool { took = time.Since(start); return lock.shut() })
					return took
				})
			}
			// A repair is over soon, so it is made often enough to be seen.
			status, metric := false, false
			for start := time.Now(); !(status && metric) && time.Since(start) < time.Minute; {
				lock.open()
				for range 10 {
					s := h.status()
					status = status || !s.EnforcementActive && !s.Ready && len(s.Problems) > 0
					metric = metric || h.scrape("sallyport_enforcement_active") == 0
				}
			}
			if !status || !metric {
				t.Errorf("seen in status: %v, in metrics: %v", status, metric)
			}
			h.waitAudit("the repair", func(e *audit.Event) bool {
				return e.Kind == audit.Lifecycle && strings.HasPrefix(e.Message, lock.audit)
			})
			eventually(t, 20*time.Second, "all is well again", func() bool {
				s := h.status()
				return s.Ready && s.EnforcementActive && len(s.Problems) == 0 && h.scrape("sallyport_enforcement_active") == 1
			})
		})
	}
	w.silent("while locks were opened")
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
}

// startGiver starts a sock that gives its socket away, and waits until it
// listens. The function that it returns waits for its end.
func (h *host) startGiver(c *exec.Cmd, statements ...string) func() {
	h.t.Helper()
	c.Args = append(append(c.Args, sockPath), statements...)
	p := outside.Start(h.t, c)
	if r := p.Until("give"); r != "give ok" {
		h.t.Errorf("giver: %q", p.Said)
	}
	return func() { c.Wait() }
}
