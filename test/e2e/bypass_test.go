package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
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
					case len(lines) == 0 && s.leaves(a) && !unsupported(out):
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
	h.waitLocks(2 * time.Second)
	// The control's connections may still say goodbye.
	eventually(t, 5*time.Second, "a silent wire", func() bool { return len(w.packets()) == 0 })

	h.kill(d.pid, unix.SIGSTOP)
	h.flush()
	run(lockState{"bpf alone", none, every})
	h.detach("*-egress")
	run(lockState{"redirection alone", func(a *attack) bool { return a.sneaks }, none})
	h.kill(d.pid, unix.SIGCONT)
	h.waitLocks(2 * time.Second)
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

// waitLocks waits until both locks are back and give no problem any more.
func (h *host) waitLocks(within time.Duration) {
	h.t.Helper()
	eventually(h.t, within, "both locks are back", func() bool {
		for _, attached := range h.links("*") {
			if !attached {
				return false
			}
		}
		return h.tabled()
	})
	eventually(h.t, 15*time.Second, "enforcement is active", func() bool { s := h.status(); return s.EnforcementActive && len(s.Problems) == 0 })
}

var _ = audit.Refused
