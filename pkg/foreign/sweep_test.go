package foreign

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// holderEnv makes the test binary a workload: it has some sockets and waits. It says
// how many descriptors are inherited, the first of which is moved to lentAt.
const (
	holderEnv = "FOREIGN_TEST_HOLDER"
	lentAt    = 200
)

func TestMain(m *testing.M) {
	if os.Getenv(holderEnv) != "" {
		for range 10 {
			if _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil {
				panic(err)
			}
		}
		if os.Getenv(holderEnv) != "0" {
			if err := unix.Dup3(3, lentAt, unix.O_CLOEXEC); err != nil {
				panic(err)
			}
			unix.Close(3)
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newTree gives the host's cgroups and one of the test's own.
func newTree(tb testing.TB) (*workload.Tree, workload.Cgroup) {
	tb.Helper()
	tree, err := workload.FindTree()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tree.Close() })
	return tree, newCgroup(tb, tree, fmt.Sprintf("/sallyport-foreign-%d-%d", os.Getpid(), time.Now().UnixNano()))
}

func newCgroup(tb testing.TB, tree *workload.Tree, path string) workload.Cgroup {
	tb.Helper()
	cg, err := tree.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cg.Kill(tb.Context())
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if unix.Rmdir(cg.Dir()) != unix.EBUSY {
				return
			}
		}
		tb.Errorf("cgroup %s is left", path)
	})
	return cg
}

// startHolder starts a workload in a cgroup. It inherits descriptors, which stay open
// here.
func startHolder(tb testing.TB, cg workload.Cgroup, fds ...int) *exec.Cmd {
	tb.Helper()
	dir, err := cg.Open()
	if err != nil {
		tb.Fatal(err)
	}
	defer dir.Close()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), holderEnv+"="+strconv.Itoa(len(fds)))
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	for _, fd := range fds {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			tb.Fatal(err)
		}
		f := os.NewFile(uintptr(own), "inherited")
		defer f.Close()
		c.ExtraFiles = append(c.ExtraFiles, f)
	}
	in, err := c.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		in.Close()
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		tb.Fatal(err)
	}
	return c
}

// startShares starts workloads below a cgroup, each a share of its own.
func startShares(tb testing.TB, tree *workload.Tree, root workload.Cgroup, n int) []Share {
	tb.Helper()
	var shares []Share
	for i := range n {
		cg := newCgroup(tb, tree, fmt.Sprintf("%s/%d", root.Path(), i))
		startHolder(tb, cg)
		shares = append(shares, Share{Root: cg})
	}
	return shares
}

func newSweeper(tree *workload.Tree) *Sweeper {
	return New(Options{Tree: tree, Tagged: func(uint64) bool { return true }})
}

// TestTurns: each share is looked through in the end, however short the turns are,
// and one that ends in between is forgotten.
func TestTurns(t *testing.T) {
	tree, root := newTree(t)
	shares := startShares(t, tree, root, 3)
	s := newSweeper(tree)
	defer s.Close()
	found, err := s.Sweep(append(shares, shares[0], Share{Root: root, Alone: true}), 0)
	if err != nil || len(found) > 0 {
		t.Fatalf("found %v, %v", found, err)
	}
	// What is under way and gone must not hold anything.
	before := s.shares[shares[0].Root.ID()]
	for _, sh := range s.shares {
		sh.turn(-time.Second)
	}
	if _, err := s.Sweep(shares[1:], 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if before.look != nil || len(s.shares) != 2 {
		t.Errorf("%d shares are known, want 2; a look at what is gone: %v", len(s.shares), before.look)
	}
	for _, sh := range s.shares {
		if n, _ := s.Figures(); sh.look != nil || sh.took < 20 || n < sh.took || sh.beyond {
			t.Errorf("%s: under way %v, took %d, at most %d, beyond %v", sh.what.Root.Path(), sh.look != nil, sh.took, n, sh.beyond)
		}
	}
}

// TestStep: a look that has had its turn waits, one that is stopped ends, and one
// that is beyond its bound is told so each time.
func TestStep(t *testing.T) {
	for _, c := range []struct {
		name   string
		spent  int
		until  time.Duration
		goesOn bool
		want   error
		yields int
	}{
		{"at the beginning", 0, time.Hour, true, nil, 0},
		{"its turn is over", checkEvery, -time.Hour, true, nil, 1},
		{"nobody goes on", checkEvery, -time.Hour, false, errStopped, 1},
		{"at the bound", MaxWork - 1, time.Hour, true, nil, 0},
		{"beyond", MaxWork, time.Hour, true, errBeyond, 0},
		{"beyond and stopped", MaxWork, -time.Hour, false, errStopped, 1},
	} {
		yields := 0
		l := &look{spent: c.spent, until: time.Now().Add(c.until), yield: func(struct{}) bool { yields++; return c.goesOn }}
		if err := l.step(1); err != c.want || yields != c.yields || l.over != (c.want == errBeyond) {
			t.Errorf("%s: %v after %d turns, over %v", c.name, err, yields, l.over)
		}
	}
}

// TestSettle: a doubt ends a process only if it lasts.
func TestSettle(t *testing.T) {
	tree, root := newTree(t)
	c := startHolder(t, root)
	sh := newShare(newSweeper(tree), Share{Root: root})
	h, err := openHolder(tree, root, c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	look := func(doubted bool) []Found {
		l := newLook(sh)
		if doubted {
			l.doubt(h, entry{tid: h.pid, fd: -1, inode: 7})
		}
		l.settle()
		sh.stubborn = l.stubborn
		return sh.take()
	}
	age := func() { sh.unsure = sh.unsure.Add(-doubtFor) }
	if found := look(true); len(found) > 0 {
		t.Errorf("at once: %v", found)
	}
	if found := look(false); len(found) > 0 || !sh.unsure.IsZero() {
		t.Errorf("nothing is in doubt any more: %v, since %v", found, sh.unsure)
	}
	look(true)
	age()
	found := look(true)
	if want := (Found{Kind: KindInFlight, PID: uint32(h.pid), Exe: h.exe, Cgroup: root.ID(), Outcome: Ended}); len(found) != 1 || found[0] != want {
		t.Errorf("after a while: %+v, want %+v", found, want)
	}
	if found := look(true); len(found) > 0 {
		t.Errorf("told again: %v", found)
	}
	if err := c.Wait(); err == nil {
		t.Error("the process was not ended")
	}
}

// TestTooManyCgroups: more cgroups than are walked end the workload.
func TestTooManyCgroups(t *testing.T) {
	tree, root := newTree(t)
	inner := newCgroup(t, tree, root.Path()+"/inner")
	c := startHolder(t, inner)
	s := newSweeper(tree)
	defer s.Close()
	shares := []Share{{Root: root}}
	if found, err := s.Sweep(shares, time.Minute); err != nil || len(found) > 0 || s.Beyond() != nil {
		t.Fatalf("far below the bound: %v, %v, beyond %v", found, err, s.Beyond())
	}
	s.shares[root.ID()].most = 2
	newCgroup(t, tree, inner.Path()+"/below")
	if found, err := s.Sweep(shares, time.Minute); err != nil || len(found) > 0 || s.Beyond() != nil {
		t.Fatalf("at the bound: %v, %v, beyond %v", found, err, s.Beyond())
	}
	newCgroup(t, tree, root.Path()+"/beside")
	found, err := s.Sweep(shares, time.Minute)
	if err != nil || len(found) != 1 || found[0].Kind != KindBeyond || found[0].Outcome != Ended || found[0].Cgroup != root.ID() {
		t.Errorf("beyond: %v, %v", found, err)
	}
	if diff := cmp.Diff([]string{root.Path()}, s.Beyond()); diff != "" {
		t.Error(diff)
	}
	if err := c.Wait(); err == nil {
		t.Error("the process was not ended")
	}
}

// TestNames: a family is told by the name that people have for it, and one without
// stays apart from all others.
func TestNames(t *testing.T) {
	for f, want := range map[int]string{unix.AF_PACKET: "packet", unix.AF_VSOCK: "vsock", unix.AF_XDP: "xdp", unix.AF_TIPC: "family-30"} {
		if got := familyName(f); got != want {
			t.Errorf("family %d is %q, want %q", f, got, want)
		}
	}
	for _, name := range []string{"TCP", "UDPv6", "RAW", "PACKET", "SCTP", "PING", "AF_VSOCK", "XDP", "MPTCP"} {
		if !leadsOut(name) || local(name) {
			t.Errorf("%s: leads out %v, local %v", name, leadsOut(name), local(name))
		}
	}
	for _, name := range []string{"UNIX", "UNIX-STREAM", "NETLINK", "ALG"} {
		if leadsOut(name) || !local(name) {
			t.Errorf("%s: leads out %v, local %v", name, leadsOut(name), local(name))
		}
	}
}

// BenchmarkSweep is a sweep of 20 idle workloads, each a Go program with 20 unix
// sockets.
func BenchmarkSweep(b *testing.B) {
	tree, root := newTree(b)
	shares := startShares(b, tree, root, 20)
	s := newSweeper(tree)
	defer s.Close()
	var before, after unix.Rusage
	b.ReportAllocs()
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	for b.Loop() {
		if found, err := s.Sweep(shares, time.Second); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
	}
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
}
