package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// nobody is an ordinary user: its uid and gid.
const nobody = 65534

// sockProgram is the attacker of the bypass table, compiled once.
var sockProgram = sync.OnceValues(func() ([]byte, error) {
	return compileC("gcc", "../bypass/attacker/attacker.c", "-static")
})

// compileC compiles one C file.
func compileC(compiler, source string, flags ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := append([]string{"-O1", "-Wall", "-Wextra", "-Werror", "-o", dir + "/a.out", source}, flags...)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", compiler, source, err, out)
	}
	return os.ReadFile(dir + "/a.out")
}

const sockPath = "/srv/bin/sock"

// putSock puts the attacker on the host, as a program.
func (h *host) putSock() {
	h.t.Helper()
	program, err := sockProgram()
	if err != nil {
		h.t.Fatal(err)
	}
	h.putProgram(sockPath, program)
}

func (h *host) putProgram(path string, program []byte) {
	h.t.Helper()
	if err := os.WriteFile(h.path(path), program, 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// below makes a cgroup below the host's slice and gives its directory.
func (h *host) below(cgroup string) string {
	h.t.Helper()
	dir := filepath.Join(cgroupRoot(), h.slice, cgroup)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// inside prepares a command in a cgroup below the slice: a workload that
// nothing but the kernel's rules confines. As uid 0 it has every capability.
func (h *host) inside(cgroup string, uid int, argv ...string) *exec.Cmd {
	h.t.Helper()
	return h.as(uid, append([]string{"bash", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, h.below(cgroup)}, asUser(uid, argv)...)...)
}

// outside prepares a command that no cgroup of ours holds.
func (h *host) outside(uid int, argv ...string) *exec.Cmd {
	h.t.Helper()
	return h.as(uid, asUser(uid, argv)...)
}

func (h *host) as(uid int, argv ...string) *exec.Cmd {
	c := h.command(argv...)
	if uid != 0 {
		c.Env = append(c.Env, "HOME=/tmp", "USER=nobody")
	}
	return c
}

func asUser(uid int, argv []string) []string {
	if uid == 0 {
		return argv
	}
	id := strconv.Itoa(uid)
	return append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--"}, argv...)
}

// sock runs statements of the attacker in a workload and gives a line
// for each.
func (h *host) sock(cgroup string, uid int, statements ...string) []string {
	h.t.Helper()
	return h.sockLines(h.inside(cgroup, uid, append([]string{sockPath}, statements...)...))
}

func (h *host) sockLines(c *exec.Cmd) []string {
	h.t.Helper()
	r := h.run(c)
	if r.code != 0 || r.stderr != "" {
		h.t.Errorf("sock: %v", r)
	}
	return strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
}

// A wire sees every packet that comes out of the host's cable, whoever sent it.
type wire struct {
	h    *host
	mu   sync.Mutex
	seen []string
	// canaries counts the packets with which the test itself asks whether all
	// before them have been seen.
	canaries int
}

// tap listens on the internet's end of the cable.
func (h *host) tap() *wire {
	h.t.Helper()
	w := &wire{h: h}
	fd := -1
	inNetns(h.t, h.net.ns, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			h.t.Errorf("tap: %v", err)
			return
		}
		cable, err := net.InterfaceByName("ve0")
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: cable.Index})
		}
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
		if err != nil {
			h.t.Errorf("tap: %v", err)
		}
	})
	if fd < 0 {
		h.t.FailNow()
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			w.packet(buf[:n])
		}
	}()
	h.t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return w
}

// canary is a UDP port of the internet on which nothing listens.
const canary = originV4 + ":9"

func (w *wire) packet(b []byte) {
	text := describe(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case text == "":
	case strings.HasSuffix(text, "> "+canary):
		w.canaries++
	default:
		w.seen = append(w.seen, text)
	}
}

// describe gives a line for a packet, "" for what the kernel itself says to its
// neighbours, and for a bare RST: the kernel's answer for a socket that is gone.
func describe(b []byte) string {
	if len(b) < 20 {
		return ""
	}
	var src, dst netip.Addr
	var proto byte
	var rest []byte
	note := ""
	switch {
	case b[0]>>4 == 4:
		head := int(b[0]&15) * 4
		if len(b) < head {
			return "short"
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		proto, rest = b[9], b[head:]
	case b[0]>>4 == 6 && len(b) >= 40:
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		proto, rest = b[6], b[40:]
		for len(rest) >= 8 && (proto == unix.IPPROTO_ROUTING || proto == unix.IPPROTO_HOPOPTS || proto == unix.IPPROTO_DSTOPTS) {
			size := 8 + int(rest[1])*8
			if proto == unix.IPPROTO_ROUTING {
				note = " by a routing header"
			}
			proto = rest[0]
			rest = rest[min(size, len(rest)):]
		}
		if proto == unix.IPPROTO_ICMPV6 && len(rest) > 0 && rest[0] >= 130 && rest[0] <= 143 {
			return ""
		}
	default:
		return "" // ARP
	}
	switch {
	case proto == unix.IPPROTO_TCP && len(rest) >= 20:
		if rest[13]&4 != 0 && len(rest) == int(rest[12]>>4)*4 {
			return ""
		}
		fallthrough
	case proto == unix.IPPROTO_UDP && len(rest) >= 8:
		name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[proto]
		return fmt.Sprintf("%s%s %s > %s", name, note,
			netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:])))
	case proto == unix.IPPROTO_UDPLITE && len(rest) >= 8:
		return fmt.Sprintf("udplite %s > %s", netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:])))
	}
	return fmt.Sprintf("protocol %d%s %s > %s", proto, note, src, dst)
}

// packets gives every packet since the last call: those that left before the
// call are among them.
func (w *wire) packets() []string {
	w.h.t.Helper()
	w.mu.Lock()
	want := w.canaries + 1
	w.mu.Unlock()
	inNetnsOf(w.h.t, w.h, func() {
		c, err := net.Dial("udp4", canary)
		if err != nil {
			w.h.t.Errorf("canary: %v", err)
			return
		}
		defer c.Close()
		c.Write([]byte("canary"))
	})
	eventually(w.h.t, 3*time.Second, "the packet behind all others", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.canaries >= want
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// silent fails if anything has left the host since the last look.
func (w *wire) silent(what string) {
	w.h.t.Helper()
	if seen := w.packets(); len(seen) > 0 {
		w.h.t.Errorf("%s: %d packets left the host, the first %q", what, len(seen), seen[0])
	}
}

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
	r := h.sh("curl -sS --max-time 5 http://127.0.0.1:9595/metrics")
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

// A sockProcess is a running the attacker that pauses now and then.
type sockProcess struct {
	h     *host
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	// said are the lines so far.
	said []string
}

// startSock starts the program and reads on to its first pause.
func (h *host) startSock(c *exec.Cmd, statements ...string) *sockProcess {
	h.t.Helper()
	c.Args = append(append(c.Args, sockPath), statements...)
	p := &sockProcess{h: h, cmd: c}
	var err error
	if p.stdin, err = c.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		p.stdin.Close()
		c.Process.Kill()
		c.Wait()
	})
	p.read("pause")
	return p
}

// read reads lines up to one of a statement, or to the end, and gives the last.
func (p *sockProcess) read(until string) string {
	p.h.t.Helper()
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			return ""
		}
		line = strings.TrimSuffix(line, "\n")
		p.said = append(p.said, line)
		if word, _, _ := strings.Cut(line, " "); word == until {
			return line
		}
	}
}

// goOn ends a pause and reads on to the next one, or to the end.
func (p *sockProcess) goOn() {
	p.h.t.Helper()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		p.h.t.Fatalf("sock: %v", err)
	}
	p.read("pause")
}

// result gives what came of the last statement of a name, "" if it was not made.
func (p *sockProcess) result(statement string) string { return resultOf(p.said, statement) }

// resultOf gives what came of the last statement of a name in lines of sock.
func resultOf(lines []string, statement string) string {
	for _, line := range slices.Backward(lines) {
		if what, ok := strings.CutPrefix(line, statement+" "); ok {
			return what
		}
	}
	return ""
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
	h.startDaemon(h.config("default: deny\ntimeouts: { drain: 1s }\n"))
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
					before := len(h.audit())
					lines := h.sock(cgroup, uid, tt.statements...)
					for statement, want := range tt.want {
						got := resultOf(lines, statement)
						if !slices.Contains(strings.Split(want, "|"), got) {
							t.Errorf("uid %d in %s: %s: %q, want %s; all: %q", uid, cgroup, statement, got, want, lines)
						}
					}
					if tt.reason == "" || i > 0 && tt.reason != "no_rule" {
						continue // refusals of the same kind are told once a second
					}
					h.waitAudit(fmt.Sprintf("%s of uid %d in %s", tt.reason, uid, cgroup), func(e *audit.Event) bool {
						if before--; before >= 0 && e.Kind != audit.Refused {
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

// dialHost connects from the internet to the host, and gives what it hears.
func (n *internet) dialHost(addr string) (heard string, err error) {
	inNetns(n.t, n.ns, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", addr, 400*time.Millisecond); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
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
	rejected := h.scrape("sallyport_guard_rejected_packets_total")
	for _, f := range ipFamilies {
		any := map[string]string{"inet": "0.0.0.0", "inet6": "::"}[f.name]
		serve := func(cgroup string, uid, port int) *sockProcess {
			return h.startSock(h.inside(cgroup, uid), "socket "+f.name+" stream 6", "reuse", fmt.Sprintf("bind %s %d", any, port), "listen", "pause", "accept", "send welcome", "shut", "recv", "close")
		}
		at := func(port int) string { return net.JoinHostPort(f.near, strconv.Itoa(port)) }
		t.Run(f.name+" listed", func(t *testing.T) {
			// A new cgroup is told to the kernel within half a second.
			eventually(t, 3*time.Second, "the workload's answer", func() bool {
				p := serve("server.service", nobody, 8080)
				io.WriteString(p.stdin, "\n")
				heard, _ := h.net.dialHost(at(8080))
				p.cmd.Process.Kill()
				return heard == "welcome"
			})
			open := h.waitAudit("the flow's begin", func(e *audit.Event) bool {
				return e.Kind == audit.FlowOpen && e.Direction == "inbound" && e.Workload.Name == "server" && e.Dst.IP.String() == f.far
			})
			h.waitAudit("the flow's end", func(e *audit.Event) bool {
				return e.Kind == audit.FlowClose && e.Direction == "inbound" && e.Workload.Name == "server" && e.Dst == open.Dst && e.Counters.Workload.BytesSent == uint64(len("welcome"))
			})
		})
		for _, tt := range []struct {
			name, cgroup string
			port         int
		}{{"unlisted port", "server.service", 8081}, {"another workload", "other.service", 8080}} {
			for _, uid := range []int{nobody, 0} {
				t.Run(fmt.Sprintf("%s %s uid %d", f.name, tt.name, uid), func(t *testing.T) {
					p := serve(tt.cgroup, uid, tt.port)
					io.WriteString(p.stdin, "\n")
					if heard, err := h.net.dialHost(at(tt.port)); err == nil || heard != "" {
						t.Errorf("the internet heard %q", heard)
					}
					p.read("")
					if r := p.result("accept"); strings.HasPrefix(r, "ok") {
						t.Errorf("%q", p.said)
					}
				})
			}
		}
		t.Run(f.name+" from the host", func(t *testing.T) {
			p := serve("server.service", nobody, 8082)
			io.WriteString(p.stdin, "\n")
			r := h.run(h.command("timeout", "3", "bash", "-c", fmt.Sprintf("cat < /dev/tcp/%s/8082", f.near)))
			if r.stdout != "welcome" {
				t.Errorf("the host heard %v; the workload saw %q", r, p.said)
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
				p := h.startSock(h.inside(tt.cgroup, 0), "socket "+f.name+" stream 6", "reuse", fmt.Sprintf("bind %s %d", any, tt.port), "listen", "pause", "accept", "send welcome", "shut", "recv", "close")
				io.WriteString(p.stdin, "\n")
				if heard, _ := h.net.dialHost(net.JoinHostPort(f.near, strconv.Itoa(tt.port))); heard != tt.heard {
					t.Errorf("%s port %d: the internet heard %q, want %q", tt.cgroup, tt.port, heard, tt.heard)
				}
				p.cmd.Process.Kill()
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
	if n := h.scrape("sallyport_guard_rejected_packets_total") - rejected; n < 8 {
		t.Errorf("metrics: %v attempts were counted, want 8", n)
	}
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
	tcp := func(cgroup string, uid int, family, addr string, port int) []string {
		return h.sock(cgroup, uid, "socket "+family+" stream 6", fmt.Sprintf("connect %s %d", addr, port), "peername", "send hello", "recv", "shut", "recv")
	}
	for _, f := range ipFamilies {
		// Until the kernel has been told of a new cgroup, the worker lets the rule's
		// connections pass.
		eventually(t, 3*time.Second, f.name+": the rule is in force", func() bool {
			if lines := tcp("lucky.service", nobody, f.name, f.far, 9000); resultOf(lines, "peername") != "ok "+f.far+" 9000" {
				t.Errorf("%q", lines)
			}
			return slices.ContainsFunc(h.auditOf(audit.FlowOpen), func(e audit.Event) bool { return e.TLS.Handling == "direct" })
		})
		before := h.net.connections.Load()
		eventually(t, 3*time.Second, f.name+": the echo", func() bool {
			return slices.Contains(tcp("lucky.service", nobody, f.name, f.far, 9000), "recv ok hello")
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
		eventually(t, 5*time.Second, "the open flow in `flows`", func() bool {
			r := h.run(h.sallyport("flows", "--json", "--config", "/srv/daemon/policy.yaml"))
			for line := range strings.Lines(r.stdout) {
				if strings.Contains(line, `"handling":"direct"`) {
					seen = line
				}
			}
			return seen != ""
		})
		pid, _, _ := strings.Cut(strings.TrimPrefix(p.result("pid"), "ok "), " ")
		for _, want := range []string{`"name":"lucky"`, `"pid":` + pid, `"uid":` + strconv.Itoa(nobody), `"ip":"` + originV4 + `"`, `"port":9000`, `"rule":"straight"`} {
			if !strings.Contains(seen, want) {
				t.Errorf("flows: %s lacks %s", seen, want)
			}
		}
	})
	if n := h.scrape(`sallyport_flow_sent_bytes_total{leg="upstream",workload="lucky"}`); n < 10 {
		t.Errorf("metrics: %v bytes were sent directly, want at least 10", n)
	}
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
			lines := tcp(n.cgroup, uid, n.family, n.addr, n.port)
			if slices.Contains(lines, "recv ok hello") {
				t.Errorf("%s: %q", n.name, lines)
			}
		}
	}
	if n := h.net.connections.Load() - before; n != 0 {
		t.Errorf("%d neighbours were reached", n)
	}
	// A mapped address is the IPv4 address.
	if lines := tcp("lucky.service", nobody, "inet6", "::ffff:"+originV4, 9000); !slices.Contains(lines, "recv ok hello") {
		t.Errorf("mapped: %q", lines)
	}
	t.Run("udp", func(t *testing.T) {
		send := func(cgroup string, port int) []string {
			return h.sock(cgroup, nobody, "socket inet dgram 17", fmt.Sprintf("sendto %s %d hello", originV4, port), fmt.Sprintf("connect %s %d", originV4, port), "send hello")
		}
		if lines := send("lucky.service", 9001); resultOf(lines, "sendto") != "ok" || resultOf(lines, "send") != "ok" {
			t.Errorf("listed: %q", lines)
		}
		eventually(t, 3*time.Second, "both datagrams", func() bool { return udp9001.Load() == 2 })
		for _, lines := range [][]string{send("lucky.service", 9000), send("plain.service", 9001)} {
			if resultOf(lines, "sendto") != "EPERM" || resultOf(lines, "send") != "EPERM" {
				t.Errorf("unlisted: %q", lines)
			}
		}
		if udp9000.Load() != 0 || udp9001.Load() != 2 {
			t.Errorf("unlisted datagrams arrived: %d, %d", udp9000.Load(), udp9001.Load()-2)
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
			eventually(t, 3*time.Second, name, func() bool { return near(uint64(h.scrape(name)), want) })
		}
	}
}
