package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
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

// An attack tries to send something out of the host.
type attack struct {
	name       string
	statements []string
	// rootOnly: needs capabilities. Packet sockets are not among these attacks: no
	// hook of cgroups and none of netfilter sees them, and who has CAP_NET_RAW or
	// CAP_NET_ADMIN outside of exec can leave (contract.md §1).
	rootOnly bool
	// trace is a part of the line under which the wire shows it; empty: the
	// attack's own source port.
	trace string
	// sneaks: leads out also where redirection alone is in force. That is what
	// egress is for, and what proves that the attack is one.
	sneaks bool
}

// A family is what differs between IPv4 and IPv6 in an attack.
type ipFamily struct {
	name, near, far, dns string
}

var ipFamilies = []ipFamily{
	{"inet", hostV4, originV4, dnsV4},
	{"inet6", hostV6, originV6, originV6},
}

// attacks lists every way out that a program can try. "{port}" becomes a source
// port of the attack's own: with a source on loopback the kernel itself would
// send nothing elsewhere.
func attacks() []attack {
	var all []attack
	add := func(name string, sneaks bool, statements ...string) {
		all = append(all, attack{name: name, sneaks: sneaks, statements: statements})
	}
	for _, f := range ipFamilies {
		tcp := []string{"socket " + f.name + " stream 6", "bind " + f.near + " {port}"}
		udp := []string{"socket " + f.name + " dgram 17", "bind " + f.near + " {port}"}
		connect, ask := "connect "+f.far+" 7443", "connect "+f.dns+" 53"
		with := func(head []string, more ...string) []string { return append(slices.Clone(head), more...) }

		add(f.name+" tcp", false, with(tcp, connect, "send hello")...)
		add(f.name+" tcp again after AF_UNSPEC", false, with(tcp, connect, "unspec", connect, "send hello")...)
		add(f.name+" tcp fast open", false, with(tcp, "fastopen "+f.far+" 7443 hello")...)
		add(f.name+" tcp by io_uring", false, with(tcp, "uring "+f.far+" 7443", "send hello")...)
		add(f.name+" tcp to port 53", false, with(tcp, "connect "+f.dns+" 53", "send hello")...)
		add(f.name+" tcp by a child", false, append([]string{"fork"}, with(tcp, "fork", connect, "send hello")...)...)
		add(f.name+" tcp after exec", false, with(tcp, "exec", connect, "send hello")...)
		add(f.name+" udp connected", false, with(udp, "connect "+f.far+" 7443", "send hello")...)
		add(f.name+" udp", false, with(udp, "sendto "+f.far+" 123 hello")...)
		add(f.name+" udp dns", false, with(udp, "sendto "+f.dns+" 53 hello")...)
		add(f.name+" udp dns, then elsewhere", false, with(udp, ask, "send hello", "sendto "+f.far+" 7443 hello", "unspec", connect, "send hello")...)

		options := []string{"device eth0", "ifindex eth0", "unicast eth0", "noroute"}
		if f.name == "inet6" {
			options = append(options, "pktinfo eth0", "rthdr "+originV6)
		}
		for _, o := range options {
			// SO_DONTROUTE only skips gateways and still finds loopback. TCP asks neither
			// IP_UNICAST_IF nor the sticky IPV6_PKTINFO, and a connected IPv4 UDP
			// socket has its route already.
			sneaks := o != "noroute"
			streams := sneaks && o != "unicast eth0" && o != "pktinfo eth0"
			late := sneaks && (f.name == "inet6" || o != "unicast eth0")
			add(fmt.Sprintf("%s tcp, %s before connect", f.name, o), streams, with(tcp, o, connect, "send hello")...)
			add(fmt.Sprintf("%s tcp, %s after connect", f.name, o), streams, with(tcp, connect, o, "send hello")...)
			add(fmt.Sprintf("%s udp dns, %s before sendto", f.name, o), sneaks, with(udp, o, "sendto "+f.dns+" 53 hello")...)
			add(fmt.Sprintf("%s udp dns, %s before connect", f.name, o), sneaks, with(udp, o, ask, "send hello")...)
			add(fmt.Sprintf("%s udp dns, %s after connect", f.name, o), late, with(udp, ask, o, "send hello")...)
		}
		ancillary := []string{"cmsg pktinfo eth0 " + f.near}
		if f.name == "inet6" {
			ancillary = append(ancillary, "cmsg rthdr "+originV6)
		}
		for _, c := range ancillary {
			add(fmt.Sprintf("%s udp dns, %s", f.name, c), true, with(udp, c, "sendto "+f.dns+" 53 hello")...)
			// The kernel asks sendmsg programs here, with no address: refused.
			add(fmt.Sprintf("%s udp dns connected, %s", f.name, c), false, with(udp, ask, c, "send hello")...)
			add(fmt.Sprintf("%s udp, %s", f.name, c), false, with(udp, c, "sendto "+f.far+" 7443 hello")...)
		}
		add(f.name+" mptcp", false, "socket "+f.name+" stream 262", "bind "+f.near+" {port}", connect, "send hello")
		add(f.name+" udp-lite", false, "socket "+f.name+" dgram 136", "bind "+f.near+" {port}", "sendto "+f.far+" 7443 hello")
		add(f.name+" sctp", false, "socket "+f.name+" stream 132", "bind "+f.near+" {port}", connect)
		all = append(all, attack{name: f.name + " raw udp", rootOnly: true, trace: "protocol 253 " + f.near, statements: []string{
			"socket " + f.name + " raw 253", "connect " + f.far + " 0", "sendhex 00112233445566778899"}})
	}
	mapped := "::ffff:"
	add("mapped tcp", false, "socket inet6 stream 6", "bind "+mapped+hostV4+" {port}", "connect "+mapped+originV4+" 7443", "send hello")
	add("mapped udp", false, "socket inet6 dgram 17", "bind "+mapped+hostV4+" {port}", "sendto "+mapped+originV4+" 7443 hello")
	add("mapped udp dns", false, "socket inet6 dgram 17", "bind "+mapped+hostV4+" {port}", "connect "+mapped+dnsV4+" 53", "send hello")
	add("mapped udp dns, device after connect", true, "socket inet6 dgram 17", "bind "+mapped+hostV4+" {port}", "connect "+mapped+dnsV4+" 53", "device eth0", "send hello")
	add("mapped tcp, device after connect", true, "socket inet6 stream 6", "bind "+mapped+hostV4+" {port}", "connect "+mapped+originV4+" 7443", "device eth0", "send hello")
	echo4, echo6 := "sendhex 0800000000010001", "sendhex 8000000000010001"
	return append(all,
		attack{name: "inet ping", trace: "protocol 1 " + hostV4, statements: []string{"socket inet dgram 1", "connect " + originV4 + " 0", echo4}},
		attack{name: "inet6 ping", trace: "protocol 58 " + hostV6, statements: []string{"socket inet6 dgram 58", "connect " + originV6 + " 0", echo6}},
	)
}

// A lockState is one of the two locks alone, both, or none.
type lockState struct {
	name string
	// leaves says which attacks must get out: then the test can fail.
	leaves func(*attack) bool
	// stays says which must not.
	stays func(*attack) bool
}

// TestEachLockAlone: with all BPF links detached by hand the guard lets nothing
// out, and with the table flushed BPF lets nothing out, whatever a program
// tries, as an ordinary user and as root.
func TestEachLockAlone(t *testing.T) {
	h := newHost(t)
	h.putSock()
	h.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647' net.ipv4.tcp_fastopen=1")
	h.net.serveTCP(7443, func(c net.Conn) { io.Copy(io.Discard, c) })
	d := h.startDaemon(h.config(attentive))
	w := h.tap()
	all := attacks()
	round := 0
	every := func(*attack) bool { return true }
	none := func(*attack) bool { return false }
	run := func(s lockState) {
		t.Run(s.name, func(t *testing.T) {
			w.packets()
			before := h.net.connections.Load()
			round++
			said := h.attack(all, round)
			seen := w.packets()
			// A line of the wire belongs to one attack; what belongs to none is a
			// leak of unknown origin.
			matched := make([]bool, len(seen))
			for u, uid := range attackers {
				for i := range all {
					a := &all[i]
					if a.rootOnly && uid != 0 {
						continue
					}
					trace := a.trace
					if trace == "" {
						trace = fmt.Sprintf(":%d > ", attackPort(round, u, i))
					}
					var lines []string
					for k, line := range seen {
						if strings.Contains(line, trace) {
							matched[k] = true
							lines = append(lines, line)
						}
					}
					out := said[u][i]
					switch {
					case len(lines) > 0 && s.stays(a):
						t.Errorf("uid %d: %s: left the host: %q; the program saw %q", uid, a.name, lines, out)
					case len(lines) == 0 && s.leaves(a) && unsupported(out):
						t.Logf("uid %d: %s: not possible on this kernel: %q", uid, a.name, out)
					case len(lines) == 0 && s.leaves(a):
						t.Errorf("uid %d: %s: is no attack: nothing left the host; the program saw %q", uid, a.name, out)
					}
				}
			}
			for k, line := range seen {
				// Where something may leave, sockets of an earlier round repeat themselves.
				if !matched[k] && !s.leaves(&attack{sneaks: true}) {
					t.Errorf("left the host, by whomever: %q", line)
				}
			}
			if reached := h.net.connections.Load() - before; reached > 0 && !s.leaves(&all[0]) {
				t.Errorf("%d connections reached the origin", reached)
			}
		})
	}
	run(lockState{"both", none, every})

	h.kill(d.pid, unix.SIGSTOP)
	h.detach("*")
	run(lockState{"guard alone", none, every})
	h.flush()
	run(lockState{"none", every, none})
	h.kill(d.pid, unix.SIGCONT)
	h.waitLocks()
	// The control's connections may still say goodbye.
	eventually(t, 5*time.Second, "a silent wire", func() bool { return len(w.packets()) == 0 })

	h.kill(d.pid, unix.SIGSTOP)
	h.flush()
	run(lockState{"bpf alone", none, every})
	h.detach("*-egress")
	run(lockState{"redirection alone", func(a *attack) bool { return a.sneaks }, none})
	h.kill(d.pid, unix.SIGCONT)
	h.waitLocks()
}

var attackers = []int{nobody, 0}

// attackPort is the source port of an attack, another one in each round: ports
// of closed connections rest.
func attackPort(round, attacker, i int) int { return 10000 + 2000*round + 1000*attacker + i }

// unsupported: this kernel was built without such protocols or headers.
func unsupported(out string) bool {
	return strings.Contains(out, "cmsg ok") && strings.HasSuffix(out, " EINVAL\n") || strings.HasPrefix(out, "socket EPROTONOSUPPORT") || strings.HasPrefix(out, "socket ESOCKTNOSUPPORT") || strings.Contains(out, "uring_setup E")
}

// attack runs all attacks at once, by each attacker, and gives what each
// program saw.
func (h *host) attack(all []attack, round int) [][]string {
	h.t.Helper()
	said := make([][]string, len(attackers))
	for u, uid := range attackers {
		dir := fmt.Sprintf("/srv/attack/%d", uid)
		var script strings.Builder
		fmt.Fprintf(&script, "cd %s\n", dir)
		for i, a := range all {
			if a.rootOnly && uid != 0 {
				continue
			}
			fmt.Fprintf(&script, "%s", sockPath)
			for _, s := range a.statements {
				fmt.Fprintf(&script, " '%s'", strings.ReplaceAll(s, "{port}", strconv.Itoa(attackPort(round, u, i))))
			}
			fmt.Fprintf(&script, " > %d 2>&1 &\n", i)
			if i%48 == 47 {
				fmt.Fprintln(&script, "wait")
			}
		}
		fmt.Fprintln(&script, "wait")
		h.write(dir+"/script", script.String())
		if err := os.Chown(h.path(dir), uid, uid); err != nil {
			h.t.Fatal(err)
		}
		if r := h.run(h.inside("attacker", uid, "bash", dir+"/script")); r.code != 0 || r.stderr != "" {
			h.t.Fatalf("attack: %v", r)
		}
		for i := range all {
			said[u] = append(said[u], h.read(fmt.Sprintf("%s/%d", dir, i)))
		}
	}
	return said
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
	r := h.sh(fmt.Sprintf(`set -e; for p in /sys/fs/bpf/sallyport/*/*/links/%s; do bpftool link detach pinned "$p"; done`, pattern))
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
	eventually(h.t, 15*time.Second, "both locks are back", func() bool {
		for _, attached := range h.links("*") {
			if !attached {
				return false
			}
		}
		return h.tabled()
	})
	eventually(h.t, 15*time.Second, "enforcement is active", func() bool { s := h.status(); return s.EnforcementActive && len(s.Problems) == 0 })
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
				lock.open()
				start := time.Now()
				// Looking takes its time as well: what counts is when the look began.
				var took time.Duration
				eventually(t, 5*time.Second, "the lock is back", func() bool { took = time.Since(start); return lock.shut() })
				if took > back {
					t.Errorf("back after %s", took)
				}
			}
			// A repair is over soon, so it is made often enough to be seen.
			status, metric := false, false
			for start := time.Now(); !(status && metric) && time.Since(start) < 15*time.Second; {
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
			eventually(t, 5*time.Second, "all is well again", func() bool {
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

// A thief listens where our listeners are or were, and counts what it gets.
type thief struct {
	got   atomic.Int64
	bound []string
	close func()
}

// thiefPlaces are at our default ports (contract.md §3).
var thiefPlaces = []struct{ network, addr string }{
	{"tcp4", "127.0.0.1:15001"}, {"tcp6", "[::1]:15001"}, {"tcp4", "0.0.0.0:15001"}, {"tcp6", "[::]:15001"},
	{"udp4", "127.0.0.1:15053"}, {"udp6", "[::1]:15053"}, {"udp4", "0.0.0.0:15053"}, {"udp6", "[::]:15053"},
}

// steal binds every place that it can, with SO_REUSEADDR and SO_REUSEPORT, as an
// untagged process of the host.
func (h *host) steal() *thief {
	h.t.Helper()
	th := &thief{}
	var open []io.Closer
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}}
	lc.SetMultipathTCP(false)
	inNetnsOf(h.t, h, func() {
		for _, p := range thiefPlaces {
			if strings.HasPrefix(p.network, "udp") {
				pc, err := lc.ListenPacket(context.Background(), p.network, p.addr)
				if err != nil {
					continue
				}
				open = append(open, pc)
				go func() {
					for buf := make([]byte, 512); ; th.got.Add(1) {
						if _, _, err := pc.ReadFrom(buf); err != nil {
							return
						}
					}
				}()
			} else {
				ln, err := lc.Listen(context.Background(), p.network, p.addr)
				if err != nil {
					continue
				}
				open = append(open, ln)
				go func() {
					for ; ; th.got.Add(1) {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						c.Close()
					}
				}()
			}
			th.bound = append(th.bound, p.network+" "+p.addr)
		}
	})
	th.close = sync.OnceFunc(func() {
		for _, c := range open {
			c.Close()
		}
	})
	h.t.Cleanup(th.close)
	return th
}

// victim makes captured calls as a workload: IPv4, IPv6 and mapped, TCP and DNS,
// and gives what came of each.
func (h *host) victim() []string {
	h.t.Helper()
	return h.sock("victim", nobody,
		"socket inet stream 6", "connect "+originV4+" 80", "socket inet6 stream 6", "connect "+originV6+" 80",
		"socket inet6 stream 6", "connect ::ffff:"+originV4+" 80",
		"socket inet dgram 17", "sendto "+dnsV4+" 53 hello", "connect "+dnsV4+" 53", "send hello",
		"socket inet6 dgram 17", "sendto "+originV6+" 53 hello", "connect "+originV6+" 53", "send hello")
}

// TestForeignListener: captured traffic reaches our own sockets or nobody,
// while the daemon runs and while it is down, whoever binds its ports.
func TestForeignListener(t *testing.T) {
	h := newHost(t)
	h.putSock()
	conf := h.config("mode: observe\ntimeouts: { drain: 1s }\n")
	d := h.startDaemon(conf)
	h.below("victim")
	thieves := func(t *testing.T, places func(int) int, during func()) {
		outside := h.steal()
		defer outside.close()
		// uid 0 inside the workload's own cgroup does the same.
		var inside []*sockProcess
		for _, f := range []struct{ family, addr string }{{"inet", "127.0.0.1"}, {"inet6", "::1"}} {
			inside = append(inside,
				h.startSock(h.inside("victim", 0), "socket "+f.family+" stream 6", "reuse", "bind "+f.addr+" 15001", "listen", "pause", "accept"),
				h.startSock(h.inside("victim", 0), "socket "+f.family+" dgram 17", "reuse", "bind "+f.addr+" 15053", "pause", "recv"))
		}
		bound := len(outside.bound)
		for _, i := range inside {
			if i.result("bind") == "ok" {
				bound++
			}
		}
		if all := len(thiefPlaces) + len(inside); bound != places(all) {
			t.Errorf("thieves hold %d of %d places, want %d: %q", bound, all, places(all), outside.bound)
		}
		during()
		if n := outside.got.Load(); n != 0 {
			t.Errorf("an untagged process received %d connections or datagrams", n)
		}
		for _, i := range inside {
			io.WriteString(i.stdin, "\n")
		}
		for _, i := range inside {
			i.read("")
			if r := i.result("accept") + i.result("recv"); strings.HasPrefix(r, "ok") {
				t.Errorf("a process of the workload received captured traffic: %q", i.said)
			}
		}
	}
	t.Run("running", func(t *testing.T) {
		thieves(t, func(int) int { return 0 }, func() {
			for range 5 {
				for _, line := range h.victim() {
					if !strings.HasSuffix(line, " ok") {
						t.Errorf("the workload saw %q", line)
					}
				}
			}
			if r := h.run(h.inside("victim", nobody, "curl", "-sS", "http://api.example.com/")); !strings.Contains(r.stdout, `"ok":true`) {
				t.Errorf("curl: %v", r)
			}
		})
	})
	for _, end := range []struct {
		name string
		end  func()
	}{
		// Killed, it has taken nothing back: the kernel is still told of its ports.
		{"killed", func() {
			h.kill(h.role("worker"), unix.SIGKILL)
			h.kill(d.pid, unix.SIGKILL)
			<-d.ended
		}},
		{"stopped", func() { d.stop() }},
	} {
		reached := h.net.connections.Load()
		end.end()
		t.Run(end.name, func(t *testing.T) {
			thieves(t, func(all int) int { return all }, func() {
				for range 5 {
					for _, line := range h.victim() {
						what, result, _ := strings.Cut(line, " ")
						switch {
						case what == "socket" && result == "ok", result == "EPERM", result == "ECONNREFUSED":
						case what == "send" && result == "EDESTADDRREQ": // its connect was refused
						default:
							t.Errorf("the workload saw %q", line)
						}
					}
				}
			})
		})
		d = h.startDaemon(conf)
		if r := h.run(h.inside("victim", nobody, "curl", "-sS", "http://api.example.com/")); !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("after the restart: %v", r)
		}
		if n := h.net.connections.Load() - reached; n != 1 {
			t.Errorf("%d connections reached the origin, want the last one alone", n)
		}
		// The kernel's counters outlive the daemon.
		if n := h.scrape(`sallyport_bpf_refused_total{reason="foreign_listener"}`); end.name == "killed" && n == 0 {
			t.Error("metrics: no foreign listener was counted")
		}
	}
}

// TestForeignSockets: a socket that was made outside does not connect or send
// from inside, however it got there.
func TestForeignSockets(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config("mode: observe\n"))
	w := h.tap()
	dir := h.below("receiver-0")
	receiver := func(uid int) string { return fmt.Sprintf("receiver-%d", uid) }
	type attempt struct{ socket, use, what string }
	attempts := []attempt{
		{"socket inet stream 6", "connect " + originV4 + " 80", "connect"},
		{"socket inet6 stream 6", "connect " + originV6 + " 80", "connect"},
		{"socket inet6 stream 6", "connect ::ffff:" + originV4 + " 80", "connect"},
		{"socket inet stream 6", "fastopen " + originV4 + " 80 hello", "fastopen"},
		{"socket inet stream 6", "uring " + originV4 + " 80", "uring"},
		{"socket inet stream 262", "connect " + originV4 + " 80", "connect"},
		{"socket inet dgram 17", "connect " + originV4 + " 443", "connect"},
		{"socket inet dgram 17", "sendto " + originV4 + " 443 hello", "sendto"},
		{"socket inet dgram 17", "sendto " + dnsV4 + " 53 hello", "sendto"},
		{"socket inet6 dgram 17", "sendto " + originV6 + " 443 hello", "sendto"},
		{"socket inet6 dgram 17", "sendto ::ffff:" + originV4 + " 443 hello", "sendto"},
	}
	ways := []struct {
		name string
		run  func(a attempt, uid int) []string
	}{
		{"inherited", func(a attempt, uid int) []string {
			if uid != 0 {
				return nil // only root moves into a cgroup that is not its own
			}
			return h.sockLines(h.outside(0, sockPath, a.socket, "join "+dir, "exec", a.use))
		}},
		{"SCM_RIGHTS", func(a attempt, uid int) []string {
			path := fmt.Sprintf("/tmp/pass-%d", uid)
			giver := h.startGiver(h.outside(uid), a.socket, "give "+path)
			lines := h.sock(receiver(uid), uid, "take "+path, a.use)
			giver()
			return lines
		}},
		{"pidfd_getfd", func(a attempt, uid int) []string {
			owner := h.startSock(h.outside(uid), a.socket, "pid", "pause")
			_, ids, _ := strings.Cut(owner.result("pid"), " ")
			lines := h.sock(receiver(uid), uid, "steal "+ids, a.use)
			owner.goOn()
			return lines
		}},
	}
	foreign := func() (n uint64) {
		for _, e := range h.auditOf(audit.ForeignSocket) {
			n += max(e.Count, 1)
		}
		return n
	}
	tried := uint64(0)
	for _, way := range ways {
		for _, uid := range []int{nobody, 0} {
			t.Run(fmt.Sprintf("%s uid %d", way.name, uid), func(t *testing.T) {
				for _, a := range attempts {
					lines := way.run(a, uid)
					if lines == nil {
						continue
					}
					got := resultOf(lines, a.what)
					if unsupported(strings.Join(lines, "\n")) {
						t.Logf("%s: not possible here: %q", a.use, lines)
						continue
					}
					if got != "EPERM" {
						t.Errorf("%s with %s: %q, want EPERM", a.use, a.socket, lines)
					}
					tried++
				}
				w.silent(way.name)
			})
		}
	}
	// The same socket works outside: it is the place that is refused.
	if r := h.sockLines(h.outside(nobody, sockPath, "socket inet stream 6", "connect "+originV4+" 80")); resultOf(r, "connect") != "ok" {
		t.Errorf("outside: %q", r)
	}
	eventually(t, 5*time.Second, fmt.Sprintf("%d refusals in the audit", tried), func() bool { return foreign() >= tried })
	e := h.waitAudit("a foreign socket", func(e *audit.Event) bool { return e.Kind == audit.ForeignSocket && e.Workload.UID == nobody })
	if e.Reason != "foreign_socket" || e.Verdict != "deny" || !strings.HasSuffix(e.Workload.Cgroup, "/"+receiver(nobody)) || e.Workload.PID == 0 || !e.Dst.IP.IsValid() || e.Dst.Port == 0 {
		t.Errorf("audit: %+v", e)
	}
	eventually(t, 3*time.Second, "the untagged connection arrives", func() bool { return h.net.connections.Load() > 0 })
	if n := h.net.connections.Load(); n != 1 {
		t.Errorf("%d connections reached the origin, want the untagged one alone", n)
	}
}

// startGiver starts a sock that gives its socket away, and waits until it
// listens. The function that it returns waits for its end.
func (h *host) startGiver(c *exec.Cmd, statements ...string) func() {
	h.t.Helper()
	c.Args = append(append(c.Args, sockPath), statements...)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	p := &sockProcess{h: h, out: bufio.NewReader(out)}
	if r := p.read("give"); r != "give ok" {
		h.t.Errorf("giver: %q", p.said)
	}
	return func() { c.Wait() }
}

// TestOlderConnection: a direct connection that is older than the gate carries
// nothing out any more, also where the far end speaks first. Its process was in
// the tagged cgroup all the time: a socket belongs to the cgroup that made it,
// and moving a process does not move its sockets.
func TestOlderConnection(t *testing.T) {
	t.Parallel()
	for _, f := range ipFamilies {
		t.Run(f.name, func(t *testing.T) {
			h := newHost(t)
			h.putSock()
			speak := make(chan struct{})
			var got syncBuffer
			h.net.serveTCP(7777, func(c net.Conn) {
				<-speak
				c.Write([]byte("you-first"))
				io.Copy(&got, c)
			})
			p := h.startSock(h.inside("older", nobody), "socket "+f.name+" stream 6", "connect "+f.far+" 7777", "send before", "pause",
				"recv", "send secret", "shut", "pause")
			if r := p.result("connect"); r != "ok" {
				t.Fatalf("before the gate: %q", p.said)
			}
			h.startDaemon(h.config("default: allow\nmode: observe\n"))
			w := h.tap()
			w.packets()
			close(speak)
			p.goOn()
			// Found by now, most likely, among the workload's descriptors, and destroyed.
			if r := p.result("recv"); r != "ok you-first" && r != "ECONNABORTED" {
				t.Errorf("the far end did not speak first: %q", p.said)
			}
			if e := h.waitAudit("the older connection", func(e *audit.Event) bool { return e.Kind == audit.ForeignSocket }); !strings.Contains(e.Message, "older than the gate") {
				t.Errorf("audit: %+v", e)
			}
			eventually(t, 3*time.Second, "what was sent before", func() bool { return strings.HasPrefix(got.String(), "before") })
			w.silent("an older connection")
			if s := got.String(); s != "before" {
				t.Errorf("the origin received %q, want only what was sent before; the program saw %q", s, p.said)
			}
		})
	}
}
