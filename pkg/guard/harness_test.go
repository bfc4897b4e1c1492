package guard

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
	"sallyport/test/outside"
)

// TestMain lets the test binary be a workload too: the same program, started in
// another cgroup and namespace.
func TestMain(m *testing.M) {
	if os.Getenv("GUARD_TEST_WORKLOAD") != "" {
		workload()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Addresses of the two namespaces: the workload's host and the world outside.
var (
	here4, there4 = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	here6, there6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and nf_tables")
	}
}

// newNamespace makes an empty network namespace with lo up.
func newNamespace(t testing.TB) *os.File {
	t.Helper()
	needRoot(t)
	ns := outside.NewNamespace(t)
	up(t, ns, "lo")
	return ns
}

func do(t testing.TB, ns *os.File, fn func() error) {
	t.Helper()
	if err := netns.Do(ns, fn); err != nil {
		t.Fatal(err)
	}
}

func up(t testing.TB, ns *os.File, device string, addrs ...string) {
	t.Helper()
	do(t, ns, func() error { return outside.Plug(device, addrs...) })
}

// world is a workload's host and the outside, joined by a cable.
type world struct{ host, outside *os.File }

func newWorld(t testing.TB) world {
	t.Helper()
	return join(t, newNamespace(t), newNamespace(t))
}

// join lays the cable between two namespaces.
func join(t testing.TB, host, far *os.File) world {
	t.Helper()
	w := world{host, far}
	do(t, w.host, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			// With another number than its peer's the carrier is urgent, not once a second's
			// (linkwatch_urgent_event).
			LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: 7}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(w.outside.Fd()),
		})
	})
	up(t, w.host, "eth0", here4.String()+"/24", here6.String()+"/64")
	up(t, w.outside, "eth0", there4.String()+"/24", there6.String()+"/64")
	do(t, w.host, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{there4, there6} {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: a.AsSlice()}); err != nil {
				return fmt.Errorf("default route: %w", err)
			}
		}
		return nil
	})
	// Nobody answers a question with a loopback address: neither a frame that should
	// not be there nor one behind it would be seen.
	here, there := outside.End{Namespace: w.host, Interface: "eth0"}, outside.End{Namespace: w.outside, Interface: "eth0"}
	if err := errors.Join(outside.Acquaint(here, there, there4, there6), outside.Acquaint(there, here, here4, here6),
		outside.Ready(here, here4, here6), outside.Ready(there, there4, there6)); err != nil {
		t.Fatal(err)
	}
	return w
}

// cgroup2 finds the mount of cgroup2.
func cgroup2(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4]
		}
	}
	t.Skip("no cgroup2 mount")
	return ""
}

// newCgroup makes a cgroup and gives its directory and id. Names may be nested.
func newCgroup(t testing.TB, name string) (dir string, id uint64) {
	t.Helper()
	needRoot(t)
	top := filepath.Join(cgroup2(t), fmt.Sprintf("guard_test_%d", os.Getpid()))
	dir = filepath.Join(top, strings.ReplaceAll(t.Name(), "/", "_"), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What is below, and other tests' beside it, goes with its own clean-up. Tasks
		// leave a cgroup a moment after they are reaped.
		for d := dir; len(d) >= len(top); d = filepath.Dir(d) {
			for range 2000 {
				below, _ := filepath.Glob(filepath.Join(d, "*", "cgroup.procs"))
				if len(below) > 0 || unix.Rmdir(d) != unix.EBUSY {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	return dir, inode(t, dir)
}

func inode(t testing.TB, dir string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// level counts how deep newCgroup's directory for a name is.
func level(name string) int { return 2 + strings.Count(name, "/") + 1 }

// A peer is a process of workload().
type peer struct {
	t   testing.TB
	mu  sync.Mutex
	in  *bufio.Writer
	out *bufio.Reader
	// end ends it and waits until nothing of it is left.
	end func()
}

// start runs a workload in a namespace and, unless dir is "", in a cgroup.
func start(t testing.TB, ns *os.File, dir string) *peer {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "GUARD_TEST_WORKLOAD=1")
	cmd.Stderr = os.Stderr
	if dir != "" {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	do(t, ns, cmd.Start)
	p := &peer{t: t, in: bufio.NewWriter(in), out: bufio.NewReader(out)}
	p.end = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(p.end)
	return p
}

// ask gives the workload a command and returns its answer: "ok …" or an error
// text.
func (p *peer) ask(format string, args ...any) string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.in, format+"\n", args...)
	if err := p.in.Flush(); err != nil {
		p.t.Fatal("workload:", err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatal("workload:", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// must asks and demands success.
func (p *peer) must(format string, args ...any) string {
	p.t.Helper()
	answer := p.ask(patiently+" "+format, args...)
	if !strings.HasPrefix(answer, "ok") {
		p.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), answer)
	}
	return strings.TrimPrefix(strings.TrimPrefix(answer, "ok"), " ")
}

// mustNot asks and demands failure.
func (p *peer) mustNot(format string, args ...any) string {
	p.t.Helper()
	answer := p.ask(format, args...)
	if strings.HasPrefix(answer, "ok") {
		p.t.Errorf("%s: %s, want a refusal", fmt.Sprintf(format, args...), answer)
	}
	return answer
}

// secret is in everything that a workload sends.
const secret = "s3cr3t-payload"

func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen within a minute", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// newGuard makes a guard with a table of its own in ns.
func newGuard(t testing.TB, ns *os.File) *Guard {
	t.Helper()
	g, err := New(Options{Table: "guard_test", Netns: ns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func apply(t testing.TB, g *Guard, s State) {
	t.Helper()
	if err := g.Apply(s); err != nil {
		t.Fatal(err)
	}
}

// nft runs nft(8) in a namespace, as somebody else would.
func nft(t testing.TB, ns *os.File, script string) string {
	t.Helper()
	var out []byte
	do(t, ns, func() (err error) {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err = cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
	return string(out)
}

// shell runs commands of ip(8) and the like in a namespace.
func shell(t testing.TB, ns *os.File, script string) {
	t.Helper()
	do(t, ns, func() error {
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, out)
		}
		return nil
	})
}
