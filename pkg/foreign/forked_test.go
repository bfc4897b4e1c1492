package foreign

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// newLookOf gives a look at a share without any process.
func newLookOf(tree *workload.Tree, cg workload.Cgroup) *look {
	return newLook(newShare(newSweeper(tree), Share{Root: cg}))
}

// TestClaim: what a child has before it executes is its parent's, and what PID 1 or we
// have is never destroyed. One that was received is the process's own.
func TestClaim(t *testing.T) {
	tree, cg := newTree(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(pair[:])
	// Both have it under the number lentAt.
	outsider := startHolder(t, cg, pair[0]).Process.Pid
	if err := unix.Dup3(pair[0], lentAt, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lentAt)
	var st unix.Stat_t
	if err := unix.Fstat(lentAt, &st); err != nil {
		t.Fatal(err)
	}
	own, inode := os.Getpid(), uint32(st.Ino)
	for _, c := range []struct {
		what   string
		origin origin
		e      entry
		want   claim
	}{
		{"a child of ours that has not executed", origin{parent: own, ours: true}, entry{fd: lentAt, inode: inode}, parents},
		{"what we do not have any more", origin{parent: own, ours: true}, entry{fd: lentAt, inode: inode + 1}, parents},
		{"a child of ours that has just executed", origin{parent: own, patience: spareFor}, entry{fd: lentAt, inode: inode}, parents},
		{"what we did not have any more then", origin{parent: own, patience: spareFor}, entry{fd: lentAt, inode: inode + 1}, none},
		{"its standard input", origin{parent: own, patience: spareFor}, entry{fd: 0, inode: inode}, none},
		{"a child of ours that has executed long ago", origin{parent: own}, entry{fd: lentAt, inode: inode}, lent},
		{"of which we have another", origin{parent: own}, entry{fd: lentAt, inode: inode + 1}, none},
		{"which we do not have", origin{parent: own}, entry{fd: 1 << 20, inode: inode}, none},
		{"which we took from the child", origin{parent: own}, entry{fd: pair[0], inode: inode}, none},
		{"somebody else's child", origin{parent: outsider, patience: spareFor}, entry{fd: lentAt, inode: inode}, parents},
		{"which that does not have", origin{parent: outsider, patience: spareFor}, entry{fd: lentAt, inode: inode + 1}, none},
		{"somebody else's child that has executed long ago", origin{parent: outsider}, entry{fd: lentAt, inode: inode}, none},
		{"a child of nobody outside", origin{patience: spareFor}, entry{fd: lentAt, inode: inode}, none},
		{"in a queue", origin{parent: own, patience: spareFor}, entry{fd: -1, inode: inode}, none},
	} {
		l := newLookOf(tree, cg)
		l.s.taken[pair[0]] = struct{}{}
		if got := l.claim(&holder{pid: 1 << 22, origin: c.origin}, c.e); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
	for _, c := range []struct {
		what   string
		origin origin
		fd     int
		want   bool
	}{
		{"a child of ours that has just executed", origin{parent: own, patience: spareFor}, 4, true},
		{"its standard input", origin{parent: own, patience: spareFor}, 0, false},
		{"a child of ours that has executed long ago", origin{parent: own}, 4, false},
		{"somebody else's child", origin{parent: outsider, patience: spareFor}, 4, false},
	} {
		l := newLookOf(tree, cg)
		if got := l.sparesListener(&holder{origin: c.origin}, entry{fd: c.fd, inode: inode}); got != c.want {
			t.Errorf("a listener, %s: %v, want %v", c.what, got, c.want)
		}
	}
}

// TestSpared: a socket that is passed from child to child is left alone for a while
// only, whoever has it; after a pause that begins anew.
func TestSpared(t *testing.T) {
	tree, cg := newTree(t)
	const inode = 7
	sh := newShare(newSweeper(tree), Share{Root: cg})
	now := time.Now()
	check := func(when string, patience time.Duration, want bool) {
		t.Helper()
		if got := sh.spares(inode, patience, now); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("of who has executed long ago", 0, false)
	check("at first", spareFor, true)
	for _, c := range []struct {
		when string
		want bool
	}{{"later", true}, {"later still", true}, {"for too long", false}} {
		now = now.Add(spareAgain - 100*time.Millisecond)
		sh.forgetSpared(now)
		check(c.when, spareFor, c.want)
	}
	check("of a child of PID 1 that has not executed", freshOfInit, true)
	now = now.Add(spareAgain + 100*time.Millisecond)
	check("after a pause", spareFor, true)
	now = now.Add(spareAgain + 100*time.Millisecond)
	if sh.forgetSpared(now); len(sh.spared) > 0 {
		t.Errorf("still known: %v", sh.spared)
	}
}

// TestInTime: on a host without a moment to spare our own child keeps our listeners
// for longer than anybody else's may keep what its parent has.
func TestInTime(t *testing.T) {
	for _, c := range []struct {
		age    time.Duration
		parent int
		want   bool
	}{
		{time.Second, 1, true},
		{10 * time.Second, 1, true},
		{10 * time.Second, 1 << 22, false},
		{time.Minute, 1, false},
		{time.Minute, os.Getppid(), false},
		{time.Minute, os.Getpid(), true},
	} {
		if got := inTime(c.age, c.parent); got != c.want {
			t.Errorf("%s old, child of %d: %v, want %v", c.age, c.parent, got, c.want)
		}
	}
}

// TestOrigin: a child of ours that has executed, here our own file, is given another
// look where the last one saw it before that.
func TestOrigin(t *testing.T) {
	tree, cg := newTree(t)
	pid := startHolder(t, cg).Process.Pid
	h, err := openHolder(tree, cg, pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if unexecuted, sure := notExecuted(pid, os.Getpid()); unexecuted || !sure {
		t.Error("it is taken for one that has not executed yet")
	}
	check := func(when, root string, before map[int]struct{}, want origin) {
		t.Helper()
		now := make(map[int]struct{})
		if got := h.originOf(root, before, now); got != want || len(now) > 0 {
			t.Errorf("%s: %+v, want %+v; not executed %v", when, got, want, now)
		}
	}
	time.Sleep(freshFor)
	check("had not executed at the last look", cg.Path(), map[int]struct{}{pid: {}}, origin{parent: os.Getpid(), patience: spareFor})
	check("for good", cg.Path(), nil, origin{parent: os.Getpid()})
	self, err := tree.OfProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	check("its parent is in the workload", self.Path(), nil, origin{})
}

// TestLent: who keeps what is our own beyond the time of its start is ended, and we
// keep it.
func TestLent(t *testing.T) {
	tree, cg := newTree(t)
	listener := listen(t)
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var c *exec.Cmd
	if err := raw.Control(func(fd uintptr) {
		if err := unix.Dup3(int(fd), lentAt, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		c = startHolder(t, cg, int(fd))
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lentAt)
	s := New(Options{Tree: tree, Tagged: func(uint64) bool { return false }})
	defer s.Close()
	var found []Found
	looks := 0
	for ; len(found) == 0 && looks < 100; looks++ {
		time.Sleep(freshFor / 20)
		if found, err = s.Sweep([]Share{{Root: cg}}, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if len(found) != 1 || found[0].PID != uint32(c.Process.Pid) || found[0].Outcome != Ended {
		t.Errorf("after %d looks: %+v", looks, found)
	}
	if err := c.Wait(); err == nil {
		t.Error("the process was not ended")
	}
	answers(t, listener)
}

// TestChildrenCostNothing: children are started in a cgroup while it is looked at
// without a pause, on processors that others want too. At whatever moment between fork
// and exec one is found, what its parent has stays.
func TestChildrenCostNothing(t *testing.T) {
	tree, cg := newTree(t)
	dir, err := cg.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var listeners []net.Listener
	for range 20 {
		listeners = append(listeners, listen(t))
	}
	const children = 500
	ended := make(chan struct{})
	var busy sync.WaitGroup
	var over atomic.Bool
	for range runtime.NumCPU() {
		busy.Go(func() {
			for !over.Load() {
			}
		})
	}
	busy.Go(func() {
		defer close(ended)
		defer over.Store(true)
		for n := range children {
			c := exec.Command("/bin/true")
			c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
			if err := c.Run(); err != nil {
				t.Errorf("child %d: %v", n, err)
				return
			}
		}
	})
	s := New(Options{Tree: tree, Tagged: func(uint64) bool { return false }})
	defer s.Close()
	looks, seen := 0, 0
	for more := true; more; looks++ {
		found, err := s.Sweep([]Share{{Root: cg}}, time.Second)
		if err != nil || len(found) > 0 {
			t.Errorf("look %d: %v, %v", looks, found, err)
			break
		}
		if n, _ := s.Figures(); n > workCgroup {
			seen++
		}
		select {
		case <-ended:
			more = false
		default:
		}
	}
	busy.Wait()
	for _, l := range listeners {
		answers(t, l)
	}
	if seen == 0 {
		t.Errorf("none of %d looks saw a child", looks)
	}
	t.Logf("%d looks, %d of them saw a child", looks, seen)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// answers fails if a listener has been destroyed.
func answers(t *testing.T, l net.Listener) {
	t.Helper()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Error(err)
		return
	}
	c.Close()
}
