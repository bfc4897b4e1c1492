package foreign

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inode is a descriptor's file.
func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestPeekQueue: every descriptor of a queue is had, wherever it is, and the queue
// is as before.
func TestPeekQueue(t *testing.T) {
	carried, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(carried)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	type message struct {
		length int
		fds    []int
	}
	full := make([]int, maxSCM)
	for i := range full {
		full[i] = null
	}
	for _, c := range []struct {
		name   string
		queue  []message
		stream bool // an empty message is none in a stream
	}{
		{"alone", []message{{1, []int{carried}}}, true},
		{"behind data", []message{{70_000, nil}, {1, []int{carried}}}, true},
		{"behind others", []message{{1, []int{null}}, {9, nil}, {1, []int{null, null}}, {3, []int{carried}}}, true},
		{"in data", []message{{1, []int{null}}, {60_000, []int{carried}}, {1, nil}}, true},
		{"the last of many", []message{{1, full}, {1, append(full[:maxSCM-1:maxSCM-1], carried)}}, true},
		{"in an empty message", []message{{0, []int{carried}}}, false},
		{"in the third empty message", []message{{0, []int{null}}, {0, nil}, {0, []int{carried}}}, false},
	} {
		for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET} {
			if kind == unix.SOCK_STREAM && !c.stream {
				continue
			}
			for _, offset := range []int{-1, 2} {
				t.Run(fmt.Sprintf("%s %s %d", c.name, name, offset), func(t *testing.T) {
					pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					defer unix.Close(pair[0])
					defer unix.Close(pair[1])
					n := 0
					for _, m := range c.queue {
						var control []byte
						if len(m.fds) > 0 {
							control = unix.UnixRights(m.fds...)
						}
						v := [][]byte{make([]byte, m.length)}
						if _, err := unix.SendmsgBuffers(pair[0], v, control, nil, unix.MSG_DONTWAIT); err != nil {
							t.Fatal(err)
						}
						n += len(m.fds)
					}
					if err := unix.SetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_PEEK_OFF, offset); err != nil {
						t.Fatal(err)
					}
					var look tables
					if got := look.inFlight(unix.AT_FDCWD, ownInfo(pair[1])); got != n {
						t.Fatalf("the kernel tells of %d descriptors, want %d", got, n)
					}
					// What is empty shows itself once.
					fds, whole := peekQueue(pair[1], n)
					defer closeAll(fds)
					if !whole {
						t.Errorf("%d of %d descriptors: not whole", len(fds), n)
					}
					found := false
					for _, fd := range fds {
						found = found || inode(t, fd) == inode(t, carried)
					}
					if !found {
						t.Errorf("the socket is not among %d descriptors", len(fds))
					}
					if got := look.inFlight(unix.AT_FDCWD, ownInfo(pair[1])); got != n {
						t.Errorf("%d descriptors are left in the queue, want %d", got, n)
					}
					if got, err := unix.GetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_PEEK_OFF); err != nil || got != offset {
						t.Errorf("SO_PEEK_OFF is %d, want %d (%v)", got, offset, err)
					}
				})
			}
		}
	}
	t.Run("more than there is", func(t *testing.T) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		if fds, whole := peekQueue(pair[1], 1); whole || len(fds) > 0 {
			t.Errorf("an empty queue gave %d descriptors, whole %v", len(fds), whole)
		}
	})
}

func TestParseInFlight(t *testing.T) {
	const head = "pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t77\n"
	for info, want := range map[string]int{
		head + "scm_fds: 3\n": 3, head + "scm_fds: 0\n": 0, head + "scm_fds: 253": -1, // not whole yet
		head: -1, "": -1, head + "scm_fds: x\n": -1, "scm_fds: 3\n": -1, head + "name: scm_fds: 3\n": -1,
	} {
		if got, found := parseInFlight([]byte(info)); found != (want >= 0) || found && got != want {
			t.Errorf("parseInFlight(%q) = %d, %v, want %d", info, got, found, want)
		}
	}
}

// TestBeside: a close that does not come back does not keep the Sweeper.
func TestBeside(t *testing.T) {
	sh := newShare(New(Options{}), Share{})
	held := make(chan struct{})
	if sh.closes.run(closePatience, func() { <-held }) {
		t.Error("what goes on has ended")
	}
	if n := sh.closes.waiting.Load(); n != 1 {
		t.Errorf("%d calls have not come back, want 1", n)
	}
	close(held)
	if !sh.closes.run(time.Minute, func() {}) {
		t.Error("what has ended goes on")
	}
	for deadline := time.Now().Add(time.Minute); sh.closes.waiting.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a call that has come back counts on")
		}
	}
	sh.peeks.waiting.Store(mostAside)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if fds, _, whole := sh.peek(pair[1], 0); whole || fds != nil {
		t.Error("a queue was read although too many calls have not come back")
	}
}

// TestSharedTable: a large table is read once, whoever has it. Threads stand for
// processes here: kcmp(2) does not tell them apart.
func TestSharedTable(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*largeTable {
		t.Fatalf("%d descriptors are allowed, and %d needed (%v)", limit.Cur, 2*largeTable, err)
	}
	for range largeTable {
		fd, err := unix.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	own, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(own) < 2 {
		t.Fatalf("threads: %v (%v)", own, err)
	}
	var all tables
	read := 0
	count := func(n int) error { read += n; return nil }
	for range 3 {
		if err := all.of(os.Getpid(), count, func(entry) {}); err != nil {
			t.Fatal(err)
		}
	}
	if read < largeTable || read >= 2*largeTable {
		t.Errorf("%d descriptors were read of %d, which is more than once", read, largeTable)
	}
}

// FuzzParseInFlight: whatever is in front, the count is what the first line of that
// name says, and nothing without one.
func FuzzParseInFlight(f *testing.F) {
	f.Add([]byte("pos:\t0\nino:\t7"))
	f.Add([]byte("pos:\t0\nscm_fds: 2"))
	f.Add([]byte("\nscm_fds:"))
	f.Fuzz(func(t *testing.T, front []byte) {
		n, found := parseInFlight(front)
		if bytes.Contains(front, []byte("\nscm_fds: ")) {
			if n < 0 {
				t.Errorf("%q: %d descriptors", front, n)
			}
			return
		}
		if found {
			t.Errorf("%q: %d descriptors", front, n)
		}
		if n, _ := parseInFlight(append(slices.Clip(front), "\nscm_fds: 7\n"...)); n != 7 {
			t.Errorf("behind %q: %d descriptors, want 7", front, n)
		}
	})
}
