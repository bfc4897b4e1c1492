package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// patient has sock wait ten times as long for what comes soon unless the machine is
// busy.
func patient(c *exec.Cmd) *exec.Cmd {
	c.Env = append(c.Env, "SALLYPORT_SLOWER=10")
	return c
}

// A tryout is what a program tries and what it sees.
type tryout struct {
	name       string
	uids       []int
	statements []string
	// want holds results that the program must see, by statement; alternatives
	// are separated by "|".
	want map[string]string
	// reason is that of the audit's event, dst its destination.
	reason, dst string
}

// TestKernelRules: what a program can try against the kernel's half, with both
// locks in place and the daemon running: the error it sees, and the audit.
func TestKernelRules(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647' net.ipv4.tcp_fastopen=1")
	d := h.startDaemon(h.config("default: deny\ntimeouts: { drain: 1s }\n"))
	w := h.tap()
	both, root := []int{nobody, 0}, []int{0}
	socket := func(want string) map[string]string { return map[string]string{"socket": want} }
	tcp, tcp6, udp, udp6 := "socket inet stream 6", "socket inet6 stream 6", "socket inet dgram 17", "socket inet6 dgram 17"
	mapped := "::ffff:" + originV4
	captured := func(peer string) map[string]string {
		return map[string]string{"connect": "ok", "peername": "ok " + peer}
	}
	tests := []tryout{
		{"raw ICMP", root, []string{"socket inet raw 1"}, socket("EPERM"), "raw_denied", ""},
		{"raw TCP over IPv6", root, []string{"socket inet6 raw 6"}, socket("EPERM"), "raw_denied", ""},
		{"raw with a header of its own", root, []string{"socket inet raw 255"}, socket("EPERM"), "raw_denied", ""},
		{"raw without capability", []int{nobody}, []string{"socket inet raw 1"}, socket("EPERM"), "", ""},
		{"packet without capability", []int{nobody}, []string{"socket packet dgram 2048"}, socket("EPERM"), "", ""},
		{"ping", both, []string{"socket inet dgram 1"}, socket("EPERM"), "protocol_denied", ""},
		{"ping over IPv6", both, []string{"socket inet6 dgram 58"}, socket("EPERM"), "protocol_denied", ""},
		{"MPTCP", both, []string{"socket inet stream 262"}, socket("EPERM"), "protocol_denied", ""},
		{"SCTP", both, []string{"socket inet stream 132"}, socket("EPERM|EPROTONOSUPPORT"), "", ""},
		{"UDP-Lite", both, []string{"socket inet dgram 136"}, socket("EPERM|EPROTONOSUPPORT"), "", ""},

		{"TCP", both, []string{tcp, "connect " + originV4 + " 4001", "peername"}, captured(originV4 + " 4001"), "no_rule", originV4 + ":4001"},
		{"TCP over IPv6", both, []string{tcp6, "connect " + originV6 + " 4002", "peername"}, captured(originV6 + " 4002"), "no_rule", "[" + originV6 + "]:4002"},
		{"TCP to a mapped address", both, []string{tcp6, "connect " + mapped + " 4003", "peername"}, captured(mapped + " 4003"), "no_rule", originV4 + ":4003"},
		{"AF_UNSPEC, then again", both, []string{tcp, "connect " + originV4 + " 4004", "unspec", "connect " + alphaDst + " 4005", "peername"}, captured(alphaDst + " 4005"), "no_rule", alphaDst + ":4005"},
		{"Fast Open", both, []string{tcp, "fastopen " + originV4 + " 4006 hello", "peername"}, map[string]string{"fastopen": "ok", "peername": "ok " + originV4 + " 4006"}, "no_rule", originV4 + ":4006"},
		{"io_uring", both, []string{tcp, "uring " + originV4 + " 4007", "peername"}, map[string]string{"uring": "ok", "peername": "ok " + originV4 + " 4007"}, "no_rule", originV4 + ":4007"},
		{"a child process", both, []string{"fork", tcp, "connect " + originV4 + " 4008", "peername"}, captured(originV4 + " 4008"), "no_rule", originV4 + ":4008"},
		{"0.0.0.0", both, []string{tcp, "connect 0.0.0.0 4009", "peername"}, captured("0.0.0.0 4009"), "no_rule", "0.0.0.0:4009"},
		{"::", both, []string{tcp6, "connect :: 4010", "peername"}, captured(":: 4010"), "no_rule", "[::]:4010"},
		{"a scoped address", both, []string{tcp6, "connect fe80::1%eth0 4011", "peername"}, captured("fe80::1 4011"), "no_rule", "[fe80::1]:4011"},
		{"loopback", both, []string{tcp, "connect 127.0.0.1 4012", "peername"}, captured("127.0.0.1 4012"), "no_rule", "127.0.0.1:4012"},
		{"the host's own address", both, []string{tcp, "connect " + hostV4 + " 4013", "peername"}, captured(hostV4 + " 4013"), "no_rule", hostV4 + ":4013"},
		{"bound to an interface", both, []string{tcp, "device lo", "connect " + originV4 + " 4014", "peername"}, captured(originV4 + " 4014"), "no_rule", originV4 + ":4014"},
		{"DNS, getpeername", both, []string{udp, "connect " + dnsV4 + " 53", "peername"}, captured(dnsV4 + " 53"), "", ""},
	}
	for _, own := range []struct{ family, addr, dst string }{
		{"inet", "127.0.0.1 15001", "127.0.0.1:15001"}, {"inet6", "::1 15001", "[::1]:15001"}, {"inet", "0.0.0.0 15001", "0.0.0.0:15001"},
		{"inet6", ":: 15001", "[::]:15001"}, {"inet6", "::ffff:127.0.0.1 15001", "127.0.0.1:15001"}, {"inet", "127.0.0.1 15053", "127.0.0.1:15053"},
		{"inet", "127.0.0.1 9595", "127.0.0.1:9595"}, {"inet6", "::ffff:0.0.0.0 9595", "0.0.0.0:9595"},
	} {
		tests = append(tests, tryout{"our own " + own.addr, both, []string{"socket " + own.family + " stream 6", "connect " + own.addr}, map[string]string{"connect": "EPERM"}, "own_address", own.dst})
	}
	for _, own := range []struct{ socket, addr, dst string }{{udp, "127.0.0.1 15053", "127.0.0.1:15053"}, {udp6, "::1 15053", "[::1]:15053"}, {udp6, "::ffff:127.0.0.1 15053", "127.0.0.1:15053"}} {
		tests = append(tests, tryout{"our own UDP " + own.addr, both, []string{own.socket, "connect " + own.addr, "sendto " + own.addr + " hello"}, map[string]string{"connect": "EPERM", "sendto": "EPERM"}, "own_address", own.dst})
	}
	for _, in := range []struct{ socket, call, statement, dst string }{
		{tcp, "connect", "connect " + originV4 + " 4020", originV4 + ":4020"},
		{tcp6, "connect", "connect " + originV6 + " 4021", "[" + originV6 + "]:4021"},
		{udp, "sendto", "sendto " + dnsV4 + " 53 hello", dnsV4 + ":53"},
	} {
		tests = append(tests, tryout{"from a namespace of its own: " + in.statement, both, []string{"unshare", in.socket, in.statement}, map[string]string{"unshare": "ok", in.call: "EPERM"}, "no_listener", in.dst})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, uid := range tt.uids {
				// The slice's children are workloads of their own; what is below them is not.
				for i, cgroup := range []string{"tryout.service", "tryout.service/below"} {
					if tt.reason == "no_listener" {
						// Once the keeper has found the namespace, it listens there too.
						h.kill(d.pid, unix.SIGSTOP)
					}
					began := time.Now()
					lines := h.sockLines(patient(h.inside(cgroup, uid, append([]string{sockPath}, tt.statements...)...)))
					if tt.reason == "no_listener" {
						h.kill(d.pid, unix.SIGCONT)
					}
					for statement, want := range tt.want {
						got := outside.ResultOf(lines, statement)
						if !slices.Contains(strings.Split(want, "|"), got) {
							t.Errorf("uid %d in %s: %s: %q, want %s; all: %q", uid, cgroup, statement, got, want, lines)
						}
					}
					if tt.reason == "" || i > 0 && tt.reason != "no_rule" {
						continue // refusals of the same kind are told once a second
					}
					h.waitAudit(fmt.Sprintf("%s of uid %d in %s", tt.reason, uid, cgroup), func(e *audit.Event) bool {
						if tt.reason == "no_rule" && e.Time.Before(began) {
							return false // an earlier round's
						}
						return e.Reason == tt.reason && e.Verdict == "deny" && e.Workload.Name == "tryout.service" && e.Workload.PID != 0 &&
							(tt.dst == "" || e.Dst.IP.IsValid() && netip.AddrPortFrom(e.Dst.IP.WithZone(""), e.Dst.Port).String() == tt.dst)
					})
				}
			}
			w.silent(tt.name)
		})
	}
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
	for _, reason := range []string{"raw_denied", "protocol_denied", "own_address", "no_listener"} {
		if n := h.scrape(`sallyport_bpf_refused_total{reason="` + reason + `"}`); n == 0 {
			t.Errorf("metrics: %s was not counted", reason)
		}
	}
}

// TestSocketsUnderExec: the sockets that cgroup programs do not see, exec's
// confinement refuses, also to root.
func TestSocketsUnderExec(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	w := h.tap()
	lines := h.sockLines(h.command(h.exec("", sockPath, "socket packet dgram 2048", "packet eth0 450000140000000040fe0000cb007101cb00710a", "socket inet raw 1", "socket inet stream 6", "uring "+originV4+" 80")...))
	for _, line := range lines {
		if strings.HasSuffix(line, " ok") && line != "socket ok" {
			t.Errorf("%q", lines)
		}
	}
	if len(lines) != 6 || strings.HasSuffix(lines[0], "ok") || strings.HasSuffix(lines[2], "ok") || lines[3] != "socket ok" || !strings.HasPrefix(lines[4], "uring_setup E") {
		t.Errorf("%q", lines)
	}
	w.silent("exec")
}

// TestDirect: `handling: direct` lets exactly what a rule lists pass, without the
// worker and with its figures.
func TestDirect(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	for _, port := range []int{9000, 9001, 9002} {
		h.net.serveTCP(port, func(c net.Conn) { io.Copy(c, c) })
	}
	udp9000, udp9001 := h.net.countUDP(9000), h.net.countUDP(9001)
	h.startDaemon(h.config(fmt.Sprintf(`
workloads:
  lucky: { match: { unit: lucky.service } }
rules:
  - name: straight
    match: { workloads: [lucky], cidrs: [%s/32, %s/128], ports: [9000], protocols: [tcp] }
    action: allow
    handling: direct
  - name: straight-udp
    match: { workloads: [lucky], cidrs: [%s/32], ports: [9001], protocols: [udp] }
    action: allow
    handling: direct
`, originV4, originV6, originV4)))
	tcp := func(c *exec.Cmd, family, addr string, port int) []string {
		c.Args = append(c.Args, sockPath, "socket "+family+" stream 6", fmt.Sprintf("connect %s %d", addr, port), "peername", "send hello", "recv", "shut", "recv")
		return h.sockLines(c)
	}
	lucky := func() *exec.Cmd { return patient(h.inside("lucky.service", nobody)) }
	for _, f := range ipFamilies {
		// Until the kernel has been told of a new cgroup (how long that takes, TestInbound
		// says), the worker lets the rule's connections pass.
		eventually(t, 20*time.Second, f.name+": the rule is in force", func() bool {
			if lines := tcp(lucky(), f.name, f.far, 9000); outside.ResultOf(lines, "peername") != "ok "+f.far+" 9000" {
				t.Errorf("%q", lines)
			}
			return slices.ContainsFunc(h.auditOf(audit.FlowOpen), func(e audit.Event) bool { return e.TLS.Handling == "direct" })
		})
		before := h.net.connections.Load()
		eventually(t, 20*time.Second, f.name+": the echo", func() bool {
			return slices.Contains(tcp(lucky(), f.name, f.far, 9000), "recv ok hello")
		})
		if h.net.connections.Load() == before {
			t.Error("the origin did not see the connection")
		}
		h.waitAudit("the flow's begin", func(e *audit.Event) bool {
			return e.Kind == audit.FlowOpen && e.TLS.Handling == "direct" && e.Rule == "straight" && e.Workload.Name == "lucky" && e.Workload.UID == nobody && e.Dst.IP.String() == f.far && e.Dst.Port == 9000
		})
		h.waitAudit("the flow's end with its bytes", func(e *audit.Event) bool {
			return e.Kind == audit.FlowClose && e.TLS.Handling == "direct" && e.Rule == "straight" && e.Dst.IP.String() == f.far && e.Counters.Upstream.BytesSent == 5 && e.Counters.Upstream.BytesReceived == 5
		})
	}
	t.Run("flows", func(t *testing.T) {
		p := h.startSock(h.inside("lucky.service", nobody), "socket inet stream 6", "connect "+originV4+" 9000", "send hello", "recv", "pid", "pause")
		var seen string
		eventually(t, 20*time.Second, "the open flow in `flows`", func() bool {
			r := h.run(h.sallyport("flows", "--json", "--config", "/srv/daemon/policy.yaml"))
			for line := range strings.Lines(r.stdout) {
				if strings.Contains(line, `"handling":"direct"`) {
					seen = line
				}
			}
			return seen != ""
		})
		pid, _, _ := strings.Cut(strings.TrimPrefix(p.Result("pid"), "ok "), " ")
		for _, want := range []string{`"name":"lucky"`, `"pid":` + pid, `"uid":` + strconv.Itoa(nobody), `"ip":"` + originV4 + `"`, `"port":9000`, `"rule":"straight"`} {
			if !strings.Contains(seen, want) {
				t.Errorf("flows: %s lacks %s", seen, want)
			}
		}
	})
	eventually(t, 20*time.Second, "metrics: at least 10 bytes were sent directly", func() bool {
		return h.scrape(`sallyport_flow_sent_bytes_total{leg="upstream",workload="lucky"}`) >= 10
	})
	before := h.net.connections.Load()
	for _, n := range []struct {
		name, cgroup, family, addr string
		port                       int
	}{
		{"next port", "lucky.service", "inet", originV4, 9001}, {"port before", "lucky.service", "inet", originV4, 8999}, {"next address", "lucky.service", "inet", alphaDst, 9000},
		{"next IPv6 address", "lucky.service", "inet6", "2001:db8:113::11", 9000}, {"another workload", "plain.service", "inet", originV4, 9000},
		{"another workload, IPv6", "plain.service", "inet6", originV6, 9000},
	} {
		for _, uid := range []int{nobody, 0} {
			lines := tcp(h.inside(n.cgroup, uid), n.family, n.addr, n.port)
			if slices.Contains(lines, "recv ok hello") {
				t.Errorf("%s: %q", n.name, lines)
			}
		}
	}
	if n := h.net.connections.Load() - before; n != 0 {
		t.Errorf("%d neighbours were reached", n)
	}
	// A mapped address is the IPv4 address.
	if lines := tcp(lucky(), "inet6", "::ffff:"+originV4, 9000); !slices.Contains(lines, "recv ok hello") {
		t.Errorf("mapped: %q", lines)
	}
	t.Run("udp", func(t *testing.T) {
		send := func(cgroup string, port int) []string {
			return h.sock(cgroup, nobody, "socket inet dgram 17", fmt.Sprintf("sendto %s %d hello", originV4, port), fmt.Sprintf("connect %s %d", originV4, port), "send hello")
		}
		if lines := send("lucky.service", 9001); outside.ResultOf(lines, "sendto") != "ok" || outside.ResultOf(lines, "send") != "ok" {
			t.Errorf("listed: %q", lines)
		}
		eventually(t, 20*time.Second, "both datagrams", func() bool { return udp9001.Load() == 2 })
		for _, lines := range [][]string{send("lucky.service", 9000), send("plain.service", 9001)} {
			if outside.ResultOf(lines, "sendto") != "EPERM" || outside.ResultOf(lines, "send") != "EPERM" {
				t.Errorf("unlisted: %q", lines)
			}
		}
		// What arrived before them is counted before these.
		h.sockLines(h.outside(nobody, sockPath, "socket inet dgram 17", "sendto "+originV4+" 9000 hello", "sendto "+originV4+" 9001 hello"))
		eventually(t, 20*time.Second, "the untagged datagrams", func() bool { return udp9000.Load() > 0 && udp9001.Load() > 2 })
		if udp9000.Load() != 1 || udp9001.Load() != 3 {
			t.Errorf("unlisted datagrams arrived: %d, %d", udp9000.Load()-1, udp9001.Load()-3)
		}
		h.waitAudit("the end of the UDP flow", func(e *audit.Event) bool {
			return e.Kind == audit.FlowClose && e.Rule == "straight-udp" && e.Workload.Name == "lucky" && e.Counters.Upstream.BytesSent > 0
		})
	})
}

// TestFlowFigures: the kernel's figures of a captured transfer reach audit,
// metrics and `flows`, for both legs.
func TestFlowFigures(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config("rules:\n  - { name: all, match: { hosts: [api.example.com] }, action: allow }\n"))
	const up, down = 1_500_000, 2_500_000
	r := h.run(h.inside("mover.service", nobody, "bash", "-c", fmt.Sprintf("echo $$; head -c %d /dev/zero | exec curl -4sS -o /tmp/got -w '%%{size_download}' -H 'Content-Type: x/y' --data-binary @- http://api.example.com/bytes/%d", up, down)))
	_, size, _ := strings.Cut(strings.TrimSpace(r.stdout), "\n")
	if size != strconv.Itoa(down) {
		t.Fatalf("%v", r)
	}
	const heads = 2000 // bytes that heads of requests and answers may add
	near := func(n uint64, want int) bool { return n >= uint64(want) && n < uint64(want+heads) }
	e := h.waitAudit("the end of the flow", func(e *audit.Event) bool {
		return e.Kind == audit.FlowClose && e.Workload.Name == "mover.service" && e.Counters.Workload.BytesSent > 0
	})
	for name, leg := range map[string]audit.Leg{"workload": e.Counters.Workload, "upstream": e.Counters.Upstream} {
		if !near(leg.BytesSent, up) || !near(leg.BytesReceived, down) || leg.Segments == 0 || leg.RTT <= 0 || leg.RTT > time.Second {
			t.Errorf("%s leg: %+v", name, leg)
		}
	}
	if e.Dst.IP.String() != originV4 || e.Dst.Port != 80 || e.Workload.UID != nobody || e.Workload.PID == 0 || e.Duration.Total <= 0 {
		t.Errorf("%+v", e)
	}
	for series, want := range map[string]int{"sent": up, "received": down} {
		for _, leg := range []string{"workload", "upstream"} {
			name := fmt.Sprintf(`sallyport_flow_%s_bytes_total{leg="%s",workload="mover.service"}`, series, leg)
			eventually(t, 20*time.Second, name, func() bool { return near(uint64(h.scrape(name)), want) })
		}
	}
}
