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

// sockProgram is testdata/gate/sock.c, compiled once.
var sockProgram = sync.OnceValues(func() ([]byte, error) {
	return compileC("gcc", "testdata/gate/sock.c", "-static")
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

// putSock puts testdata/gate/sock.c on the host, as a program.
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

// sock runs statements of testdata/gate/sock.c in a workload and gives a line
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

var _ testing.TB

// A sockProcess is a running testdata/gate/sock.c that pauses now and then.
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
