package e2e

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// unit gives a unit a name that no other host here has: cgroups are the machine's,
// and a daemon captures what its workloads match, wherever that is.
func (h *host) unit(name string) string { return h.name + "-" + name + ".service" }

// twoWorkloads are two that may each ask one name, and no other.
func (h *host) twoWorkloads() string {
	return fmt.Sprintf(`
timeouts: { drain: 1s }
workloads:
  alpha: { match: { unit: %s } }
  beta: { match: { unit: %s } }
rules:
  - name: for-alpha
    match: { workloads: [alpha], hosts: [other.example.com], protocols: [http] }
    action: allow
  - name: for-beta
    match: { workloads: [beta], hosts: [api.example.com], protocols: [http] }
    action: allow
`, h.unit("alpha"), h.unit("beta"))
}

// The addresses of both names.
const alphaDst, betaDst = "203.0.113.11", originV4

// get is a request as hexadecimal digits.
func get(host, path string) string {
	return hex.EncodeToString(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host))
}

// TestSourcePortTakenOver: while the worker sleeps, a workload's connection from
// a source port is closed early, and another workload, or an untagged process,
// connects from the same port. Each is judged as itself or closed.
func TestSourcePortTakenOver(t *testing.T) {
	t.Parallel()
	for _, locks := range []string{"both", "nft"} {
		t.Run(locks, func(t *testing.T) {
			h := newHost(t)
			h.locks = locks
			takeOverSourcePorts(t, h)
		})
	}
}

func takeOverSourcePorts(t *testing.T, h *host) {
	h.putSock()
	h.startDaemon(h.config(h.twoWorkloads()))
	// The names are known before the worker sleeps.
	for cgroup, url := range map[string]string{h.unit("alpha"): "http://other.example.com/first", h.unit("beta"): "http://api.example.com/first"} {
		if r := h.run(h.inside(cgroup, nobody, "curl", "-4sS", url)); !strings.Contains(r.stdout, `"ok":true`) {
			t.Fatalf("%s: %v", cgroup, r)
		}
	}
	worker := h.role("worker")
	tcp := func(from int, dst string) []string {
		return []string{"socket inet stream 6", "reuse", "bind " + hostV4 + " " + strconv.Itoa(from), "connect " + dst, "patience 20000"}
	}
	const answered = "ok HTTP/1.1 200"
	for round := range 5 {
		h.kill(worker, unix.SIGSTOP)
		port := 21000 + 10*round
		path := func(who string) string { return fmt.Sprintf("/%s-%d", who, round) }
		// Early closes by alpha: with a reset after a request, before one, and an
		// orderly one whose request is to be answered for alpha.
		gone := h.sock(h.unit("alpha"), nobody, append(tcp(port, alphaDst+" 80"), "sendhex "+get("other.example.com", path("gone")), "reset")...)
		mute := h.sock(h.unit("alpha"), nobody, append(tcp(port+1, alphaDst+" 80"), "reset")...)
		left := h.sock(h.unit("alpha"), nobody, append(tcp(port+2, alphaDst+" 80"), "sendhex "+get("other.example.com", path("left")), "close")...)
		for _, lines := range [][]string{gone, mute, left} {
			if outside.ResultOf(lines, "connect") != "ok" {
				t.Fatalf("alpha: %q", lines)
			}
		}
		// Whoever comes next from those ports.
		beta := h.startSock(h.inside(h.unit("beta"), nobody), append(tcp(port, betaDst+" 80"), "sendhex "+get("api.example.com", path("beta")), "pause", "recv")...)
		sly := h.startSock(h.inside(h.unit("beta"), nobody), append(tcp(port+1, alphaDst+" 80"), "sendhex "+get("other.example.com", path("sly")), "pause", "recv")...)
		untagged := h.startSock(h.outside(nobody), append(tcp(port+2, "127.0.0.1 15001"), "sendhex "+get("other.example.com", path("untagged")), "pause", "recv")...)
		if r := untagged.Result("connect"); r != "ok" {
			// The orderly close still holds the port; then from one that a reset freed.
			untagged = h.startSock(h.outside(nobody), append(tcp(port+3, "127.0.0.1 15001"), "sendhex "+get("other.example.com", path("untagged")), "pause", "recv")...)
		}
		h.kill(worker, unix.SIGCONT)
		for _, p := range []*sockProcess{beta, sly, untagged} {
			p.goOn()
		}
		if r := beta.Result("recv"); !strings.HasPrefix(r, answered) {
			t.Errorf("round %d: beta on alpha's old port: %q", round, beta.Said)
		}
		if r := sly.Result("recv"); strings.HasPrefix(r, answered) || !strings.HasPrefix(r, "ok HTTP/1.1 403") {
			t.Errorf("round %d: beta asking for what is alpha's, on alpha's old port: %q", round, sly.Said)
		}
		if r := untagged.Result("recv"); r != "ECONNRESET" && r != "ok" {
			t.Errorf("round %d: untagged on alpha's old port: %q", round, untagged.Said)
		}
		// With the worker awake: an untagged process right after alpha.
		h.sock(h.unit("alpha"), nobody, append(tcp(port+4, alphaDst+" 80"), "reset")...)
		if r := outside.ResultOf(h.sockLines(h.outside(nobody, append([]string{sockPath}, append(tcp(port+4, "127.0.0.1 15001"), "sendhex "+get("other.example.com", path("untagged")), "recv")...)...)), "recv"); r != "ECONNRESET" && r != "ok" && r != "" {
			t.Errorf("round %d: untagged on alpha's port: %q", round, r)
		}
	}
	// Where the guard captures, nobody knows whose a connection was that its client
	// has closed altogether, and it is closed.
	if h.locks != "nft" {
		eventually(t, 20*time.Second, "alpha's orderly requests are served", func() bool {
			n := 0
			for _, e := range h.auditOf(audit.Exchange) {
				if strings.HasPrefix(e.HTTP.Path, "/left-") {
					n++
				}
			}
			return n == 5
		})
	}
	may := map[string][]string{"alpha": {"first", "gone", "left"}, "beta": {"first", "beta", "sly"}}
	dst := map[string][]string{"alpha": {alphaDst}, "beta": {betaDst, alphaDst}}
	for _, e := range h.audit() {
		switch e.Kind {
		case audit.Exchange:
			what, _, _ := strings.Cut(strings.TrimPrefix(e.HTTP.Path, "/"), "-")
			if !slices.Contains(may[e.Workload.Name], what) {
				t.Errorf("%s is attributed to %q", e.HTTP.Path, e.Workload.Name)
			}
			if (e.Verdict == "allow") != (what != "sly") {
				t.Errorf("%s of %s: %s", e.HTTP.Path, e.Workload.Name, e.Verdict)
			}
		case audit.FlowOpen, audit.FlowClose:
			if !slices.Contains(dst[e.Workload.Name], e.Dst.IP.String()) {
				t.Errorf("a flow to %s is attributed to %q", e.Dst.IP, e.Workload.Name)
			}
		}
	}
	for _, r := range h.net.seen() {
		if strings.HasPrefix(r.Path, "/untagged") || strings.HasPrefix(r.Path, "/sly") {
			t.Errorf("%s%s reached the origin", r.Host, r.Path)
		}
	}
}

// TestAttribution: a flow belongs to the cgroup that made its socket, whoever
// uses it, and to the task that called connect.
func TestAttribution(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config(h.twoWorkloads()))
	alpha, beta := h.below(h.unit("alpha")), h.below(h.unit("beta"))
	deep := h.below(h.unit("alpha") + "/deep/er")
	ask := func(port int) []string { return []string{"connect " + betaDst + " " + strconv.Itoa(port), "pid"} }
	for i, tt := range []struct {
		name       string
		cgroup     string
		uid        int
		statements []string
		workload   string
		cgroupPath string
	}{
		{"itself", h.unit("alpha"), nobody, []string{"socket inet stream 6"}, "alpha", "/" + h.unit("alpha")},
		{"as root", h.unit("beta"), 0, []string{"socket inet stream 6"}, "beta", "/" + h.unit("beta")},
		{"by a mapped address", h.unit("beta"), nobody, []string{"socket inet6 stream 6"}, "beta", "/" + h.unit("beta")},
		{"in a child cgroup", h.unit("alpha") + "/deep/er", nobody, []string{"socket inet stream 6"}, "alpha", "/" + h.unit("alpha") + "/deep/er"},
		{"by a child process", h.unit("alpha"), nobody, []string{"fork", "socket inet stream 6"}, "alpha", "/" + h.unit("alpha")},
		{"by a child process with the parent's socket", h.unit("alpha"), nobody, []string{"socket inet stream 6", "fork"}, "alpha", "/" + h.unit("alpha")},
		{"after exec", h.unit("beta"), nobody, []string{"socket inet stream 6", "exec"}, "beta", "/" + h.unit("beta")},
		{"moved down with its socket", h.unit("alpha"), 0, []string{"socket inet stream 6", "join " + deep}, "alpha", "/" + h.unit("alpha")},
		{"moved across with its socket", h.unit("alpha"), 0, []string{"socket inet stream 6", "join " + beta}, "alpha", "/" + h.unit("alpha")},
		{"moved across before its socket", h.unit("beta"), 0, []string{"join " + alpha, "socket inet stream 6"}, "alpha", "/" + h.unit("alpha")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := 3000 + i // nobody listens there: the flow is told apart by it
			statements := append(slices.Clone(tt.statements), ask(port)...)
			if tt.name == "by a mapped address" {
				statements[len(statements)-2] = fmt.Sprintf("connect ::ffff:%s %d", betaDst, port)
			}
			lines := h.sock(tt.cgroup, tt.uid, statements...)
			if outside.ResultOf(lines, "connect") != "ok" {
				t.Fatalf("%q", lines)
			}
			h.flowOf(t, port, tt.workload, tt.cgroupPath, outside.ResultOf(lines, "pid"), tt.uid)
		})
	}
	t.Run("passed to another workload", func(t *testing.T) {
		giver := h.startGiver(h.inside(h.unit("alpha"), nobody), "socket inet stream 6", "give /tmp/pass")
		lines := h.sock(h.unit("beta"), nobody, append([]string{"take /tmp/pass"}, ask(3900)...)...)
		giver()
		if outside.ResultOf(lines, "connect") != "ok" {
			t.Fatalf("%q", lines)
		}
		h.flowOf(t, 3900, "alpha", "/"+h.unit("alpha"), outside.ResultOf(lines, "pid"), nobody)
	})
}

// flowOf checks whose the flow to a port is.
func (h *host) flowOf(t *testing.T, port int, workload, cgroup, pid string, uid int) {
	t.Helper()
	var e audit.Event
	eventually(t, 20*time.Second, fmt.Sprintf("an event about port %d", port), func() bool {
		for _, e = range h.audit() {
			if e.Dst.Port == uint16(port) {
				return true
			}
		}
		return false
	})
	number, _, _ := strings.Cut(strings.TrimPrefix(pid, "ok "), " ")
	if e.Workload.Name != workload || e.Workload.Cgroup != "/"+h.slice+cgroup || strconv.Itoa(int(e.Workload.PID)) != number || int(e.Workload.UID) != uid || e.Dst.IP != netip.MustParseAddr(betaDst) {
		t.Errorf("attributed to %+v, dst %v; want %s in %s, pid %s, uid %d", e.Workload, e.Dst, workload, cgroup, number, uid)
	}
}
