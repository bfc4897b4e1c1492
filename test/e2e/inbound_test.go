package e2e

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// How long the internet tries: what the guard drops has no answer.
const (
	untilHeard   = 8 * time.Second
	untilRefused = 400 * time.Millisecond
)

// dialHost connects from the internet to the host, and gives what it hears.
func (n *internet) dialHost(addr string, within time.Duration) (heard string, err error) {
	inNetns(n.t, n.ns, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", addr, within); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(untilHeard))
		var b []byte
		b, err = io.ReadAll(c)
		heard = string(b)
	})
	return heard, err
}

// TestInbound: a workload answers the internet on the ports of `listen` alone,
// and its own host on all.
func TestInbound(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	d := h.startDaemon(h.config(`
workloads:
  server: { match: { unit: server.service }, listen: [8080] }
  other: { match: { unit: other.service } }
`))
	// The kernel is told of new cgroups twice a second.
	made := 0
	best(t, "the first answer of a new cgroup", time.Second, func() time.Duration {
		made++
		start := time.Now()
		eventually(t, 20*time.Second, "the answer of a new cgroup", func() bool {
			p := h.startSock(patient(h.inside(fmt.Sprintf("new%d/server.service", made), nobody)), "socket inet stream 6", "reuse", "bind 0.0.0.0 8080", "listen", "pause", "accept", "send welcome", "shut", "recv", "close")
			p.Tell("")
			// Less than a second, after which a SYN that was dropped would come again.
			heard, _ := h.net.dialHost(net.JoinHostPort(hostV4, "8080"), 200*time.Millisecond)
			p.Cmd.Process.Kill()
			return heard == "welcome"
		})
		return time.Since(start)
	})
	rejected := h.scrape("sallyport_guard_rejected_packets_total")
	for _, f := range ipFamilies {
		any := map[string]string{"inet": "0.0.0.0", "inet6": "::"}[f.name]
		serve := func(c *exec.Cmd, port int) *sockProcess {
			return h.startSock(c, "socket "+f.name+" stream 6", "reuse", fmt.Sprintf("bind %s %d", any, port), "listen", "pause", "accept", "send welcome", "shut", "recv", "close")
		}
		at := func(port int) string { return net.JoinHostPort(f.near, strconv.Itoa(port)) }
		t.Run(f.name+" listed", func(t *testing.T) {
			eventually(t, 30*time.Second, "the workload's answer", func() bool {
				p := serve(patient(h.inside("server.service", nobody)), 8080)
				p.Tell("")
				heard, _ := h.net.dialHost(at(8080), untilHeard)
				p.Cmd.Process.Kill()
				return heard == "welcome"
			})
			end := h.waitAudit("the flow's end", func(e *audit.Event) bool {
				return e.Kind == audit.FlowClose && e.Direction == "inbound" && e.Workload.Name == "server" && e.Dst.IP.String() == f.far && e.Counters.Workload.BytesSent == uint64(len("welcome"))
			})
			h.waitAudit("the flow's begin", func(e *audit.Event) bool {
				return e.Kind == audit.FlowOpen && e.Direction == "inbound" && e.Workload.Name == "server" && e.Dst == end.Dst
			})
		})
		for _, tt := range []struct {
			name, cgroup string
			port         int
		}{{"unlisted port", "server.service", 8081}, {"another workload", "other.service", 8080}} {
			for _, uid := range []int{nobody, 0} {
				t.Run(fmt.Sprintf("%s %s uid %d", f.name, tt.name, uid), func(t *testing.T) {
					p := serve(h.inside(tt.cgroup, uid), tt.port)
					p.Tell("")
					if heard, err := h.net.dialHost(at(tt.port), untilRefused); err == nil || heard != "" {
						t.Errorf("the internet heard %q", heard)
					}
					p.Until("")
					if r := p.Result("accept"); strings.HasPrefix(r, "ok") {
						t.Errorf("%q", p.Said)
					}
				})
			}
		}
		t.Run(f.name+" from the host", func(t *testing.T) {
			p := serve(patient(h.inside("server.service", nobody)), 8082)
			p.Tell("")
			r := h.run(h.command("timeout", "20", "bash", "-c", fmt.Sprintf("cat < /dev/tcp/%s/8082", f.near)))
			if r.stdout != "welcome" {
				t.Errorf("the host heard %v; the workload saw %q", r, p.Said)
			}
		})
	}
	t.Run("bpf alone", func(t *testing.T) {
		h.kill(d.pid, unix.SIGSTOP)
		defer h.kill(d.pid, unix.SIGCONT)
		h.flush()
		for _, f := range ipFamilies {
			any := map[string]string{"inet": "0.0.0.0", "inet6": "::"}[f.name]
			for _, tt := range []struct {
				cgroup string
				port   int
				heard  string
			}{{"server.service", 8080, "welcome"}, {"server.service", 8081, ""}, {"other.service", 8080, ""}} {
				c, within := h.inside(tt.cgroup, 0), untilRefused
				if tt.heard != "" {
					c, within = patient(c), untilHeard
				}
				p := h.startSock(c, "socket "+f.name+" stream 6", "reuse", fmt.Sprintf("bind %s %d", any, tt.port), "listen", "pause", "accept", "send welcome", "shut", "recv", "close")
				p.Tell("")
				if heard, _ := h.net.dialHost(net.JoinHostPort(f.near, strconv.Itoa(tt.port)), within); heard != tt.heard {
					t.Errorf("%s port %d: the internet heard %q, want %q", tt.cgroup, tt.port, heard, tt.heard)
				}
				p.Cmd.Process.Kill()
			}
		}
	})
	h.waitLocks()
	for _, workload := range []string{"server", "other"} {
		// The guard counts for each workload and does not tell from where; BPF,
		// which saw these attempts only while it was alone, does.
		h.waitAudit("what the guard dropped for "+workload, func(e *audit.Event) bool {
			return e.Kind == audit.Refused && e.Direction == "inbound" && e.Workload.Name == workload && !e.Dst.IP.IsValid() && e.Reason == "inbound_denied" && e.Count > 0
		})
		e := h.waitAudit("the refusal of "+workload, func(e *audit.Event) bool {
			return e.Kind == audit.Refused && e.Direction == "inbound" && e.Workload.Name == workload && e.Dst.IP.IsValid()
		})
		if e.Reason != "inbound_denied" || e.Verdict != "deny" || e.Dst.IP.String() != originV4 && e.Dst.IP.String() != originV6 {
			t.Errorf("audit: %+v", e)
		}
	}
	// With both locks the guard drops a SYN before a program can see it.
	eventually(t, 20*time.Second, "metrics: 8 attempts are counted", func() bool {
		return h.scrape("sallyport_guard_rejected_packets_total")-rejected >= 8
	})
}
