package foreign

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestForked: what a child has before it executes is its parent's, also if it
// executed between the moments at which its descriptor was taken and looked at.
func TestForked(t *testing.T) {
	open := func(flags int) (fd int, inode uint32) {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return fd, uint32(st.Ino)
	}
	kept, keptInode := open(0)
	closing, closingInode := open(unix.SOCK_CLOEXEC)
	young, old, other := origin{parent: os.Getpid(), fresh: true}, origin{parent: os.Getpid()}, origin{parent: os.Getppid(), fresh: true}
	for _, c := range []struct {
		what         string
		origin       origin
		e            entry
		forked, lent bool
	}{
		{"closed on exec", young, entry{fd: closing, inode: closingInode}, true, true},
		{"kept over exec", young, entry{fd: kept, inode: keptInode}, false, false},
		{"of which the parent has another", young, entry{fd: closing, inode: closingInode + 1}, false, false},
		{"which the parent does not have", young, entry{fd: 1 << 20, inode: keptInode}, false, false},
		{"which the parent took from the child", young, entry{fd: closing, inode: closingInode, taken: closing}, false, false},
		{"a process that has executed long ago", old, entry{fd: closing, inode: closingInode}, false, true},
		{"a child of somebody else, who has it not", other, entry{fd: closing, inode: closingInode}, false, false},
		{"a child of nobody outside", origin{}, entry{fd: closing, inode: closingInode}, false, false},
		{"in a queue", young, entry{fd: -1, inode: closingInode}, false, false},
	} {
		h := &holder{pid: os.Getpid(), origin: c.origin}
		c.e.tid = os.Getpid()
		if forked, lent := h.forked(c.e), h.lent(c.e); forked != c.forked || lent != c.lent {
			t.Errorf("%s: forked %v, lent %v; want %v, %v", c.what, forked, lent, c.forked, c.lent)
		}
	}
	for _, c := range []struct {
		what string
		e    entry
		want bool
	}{
		{"not there any more", entry{fd: 1 << 20, inode: keptInode}, true},
		{"another file's number by now", entry{fd: kept, inode: keptInode + 1}, true},
		{"kept", entry{fd: kept, inode: keptInode}, false},
	} {
		h := &holder{pid: os.Getpid()}
		c.e.tid = os.Getpid()
		if got := h.closesOnExec(c.e); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
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

// TestOrigin: a child of ours that has executed, here our own file, is given until the
// second look that sees it, or while it is young.
func TestOrigin(t *testing.T) {
	tree, cg := newTree(t)
	pid := startHolder(t, cg).Process.Pid
	h, err := openHolder(tree, cg, pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if !executed(pid, os.Getpid()) {
		t.Error("it is taken for one that has not executed yet")
	}
	check := func(when string, before map[int]struct{}, fresh bool) {
		t.Helper()
		now := make(map[int]struct{})
		if got, want := h.originOf(before, now), (origin{parent: os.Getpid(), fresh: fresh}); got != want || len(now) > 0 {
			t.Errorf("%s: %+v, want %+v; not executed %v", when, got, want, now)
		}
	}
	check("young", nil, true)
	time.Sleep(freshFor)
	check("had not executed at the last look", map[int]struct{}{pid: {}}, true)
	check("for good", nil, false)

	self, err := tree.OfProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	h.cgroup = self
	if got := h.originOf(nil, nil); got != (origin{}) {
		t.Errorf("its parent is in the workload: %+v", got)
	}
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
	if len(found) != 1 || found[0].PID != uint32(c.Process.Pid) || found[0].Outcome != Ended || looks < 10 {
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
	end := time.Now().Add(3 * time.Second)
	for range runtime.NumCPU() {
		go func() {
			for time.Now().Before(end) {
			}
		}()
	}
	started := make(chan int, 1)
	go func() {
		n := 0
		for ; time.Now().Before(end); n++ {
			c := exec.Command("/bin/true")
			c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
			if err := c.Run(); err != nil {
				t.Errorf("child %d: %v", n, err)
				break
			}
		}
		started <- n
	}()
	s := New(Options{Tree: tree, Tagged: func(uint64) bool { return false }})
	defer s.Close()
	looks := 0
	for ; time.Now().Before(end); looks++ {
		found, err := s.Sweep([]Share{{Root: cg}}, time.Second)
		if err != nil || len(found) > 0 {
			t.Errorf("look %d: %v, %v", looks, found, err)
		}
	}
	for _, l := range listeners {
		answers(t, l)
	}
	if n := <-started; n < 100 || looks < 100 {
		t.Errorf("%d children and %d looks, want at least 100 of each", n, looks)
	} else {
		t.Logf("%d children, %d looks", n, looks)
	}
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
