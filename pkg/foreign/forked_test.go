package foreign

import (
	"os"
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
	for _, c := range []struct {
		what  string
		fresh bool
		e     entry
		want  bool
	}{
		{"closed on exec", true, entry{fd: closing, inode: closingInode}, true},
		{"kept over exec", true, entry{fd: kept, inode: keptInode}, false},
		{"of which the parent has another", true, entry{fd: closing, inode: closingInode + 1}, false},
		{"which the parent does not have", true, entry{fd: 1 << 20, inode: keptInode}, false},
		{"a process that has executed long ago", false, entry{fd: closing, inode: closingInode}, false},
	} {
		h := &holder{pid: os.Getpid(), asked: true, fresh: c.fresh, parent: os.Getpid()}
		c.e.tid = os.Getpid()
		if got := h.forked(c.e); got != c.want {
			t.Errorf("%s: %v", c.what, got)
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

// TestForkedByUs: a child of ours that has executed is no longer one, whatever it
// executed: here our own file.
func TestForkedByUs(t *testing.T) {
	tree, cg := newTree(t)
	h, err := openHolder(tree, cg, startHolder(t, cg).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if h.notExecuted() {
		t.Error("it is taken for one that has not executed yet")
	}
	if h.parent != os.Getpid() {
		t.Errorf("its parent is %d, want %d", h.parent, os.Getpid())
	}
}
