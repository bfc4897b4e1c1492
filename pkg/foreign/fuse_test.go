package foreign

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A slowFile is a file whose server (FUSE) lets whoever closes it wait.
type slowFile struct {
	path string
	// holds: FUSE_FLUSH is not answered.
	holds  atomic.Bool
	server int
}

// Operations of linux/fuse.h, protocol 7.31.
const (
	fuseForget  = 2
	fuseGetattr = 3
	fuseOpen    = 14
	fuseRelease = 18
	fuseFlush   = 25
	fuseInit    = 26
)

// noFUSE reports whether an error says that this kernel or container has no FUSE:
// no driver, no device, or a device that is forbidden.
func noFUSE(err error) bool {
	for _, e := range []unix.Errno{unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EPERM, unix.EACCES} {
		if err == e {
			return true
		}
	}
	return false
}

func newSlowFile(t *testing.T) *slowFile {
	t.Helper()
	f := &slowFile{path: filepath.Join(t.TempDir(), "slow")}
	if err := os.WriteFile(f.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.server, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); noFUSE(err) {
		t.Skipf("a FUSE server cannot be made here: %v", err)
	} else if err != nil {
		t.Fatalf("/dev/fuse: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=100666,user_id=0,group_id=0", f.server)
	if err := unix.Mount("test", f.path, "fuse", 0, options); err != nil {
		unix.Close(f.server)
		if noFUSE(err) {
			t.Skipf("a FUSE file system cannot be mounted here: %v", err)
		}
		t.Fatalf("mount a FUSE file system: %v", err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); f.serve() }()
	t.Cleanup(func() {
		// The connection is given up, so that nobody waits any more.
		if err := unix.Unmount(f.path, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		unix.Close(f.server)
		<-ended
	})
	return f
}

// serve answers until the file system is gone.
func (f *slowFile) serve() {
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(f.server, b)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		operation, unique := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint64(b[8:])
		var body []byte
		failed := int32(0)
		switch operation {
		case fuseForget:
			continue
		case fuseInit:
			body = make([]byte, 64)
			binary.NativeEndian.PutUint32(body, 7)
			binary.NativeEndian.PutUint32(body[4:], 31)
			binary.NativeEndian.PutUint32(body[20:], 4096)
		case fuseGetattr:
			body = make([]byte, 16+88)
			binary.NativeEndian.PutUint64(body[16:], 1)           // ino
			binary.NativeEndian.PutUint32(body[16+60:], 0o100666) // mode
			binary.NativeEndian.PutUint32(body[16+64:], 1)        // nlink
		case fuseOpen:
			body = make([]byte, 16)
		case fuseFlush:
			if f.holds.Load() {
				continue
			}
		case fuseRelease:
		default:
			failed = -int32(unix.ENOSYS)
		}
		answer := make([]byte, 16, 16+len(body))
		binary.NativeEndian.PutUint32(answer, uint32(16+len(body)))
		binary.NativeEndian.PutUint32(answer[4:], uint32(failed))
		binary.NativeEndian.PutUint64(answer[8:], unique)
		_, _ = unix.Write(f.server, append(answer, body...))
	}
}

// TestPeekSlowFile: files in a queue whose server never answers keep nobody: they
// come into no table but that of a thread which may wait for ever, and at most
// mostAside of those do. A socket among them is found.
func TestPeekSlowFile(t *testing.T) {
	slow := newSlowFile(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	file, err := unix.Open(slow.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	fds := []int{sock}
	for range 200 {
		fds = append(fds, file)
	}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(file)
	slow.holds.Store(true)
	sh := newShare(New(Options{}), Share{})
	sh.patience = time.Minute
	for i := range mostAside {
		start := time.Now()
		received, seen, whole := sh.peek(pair[1], len(fds))
		if took := time.Since(start); took >= sh.patience {
			t.Errorf("look %d took %s", i, took)
		}
		if seen != len(fds) || !whole || len(received) != 1 || inode(t, received[0]) != inode(t, sock) {
			t.Fatalf("look %d: %d of %d descriptors, %d sockets, whole %v", i, seen, len(fds), len(received), whole)
		}
		sh.closeTaken(received...)
	}
	if n := sh.peeks.waiting.Load(); n != mostAside {
		t.Errorf("%d threads wait, want %d", n, mostAside)
	}
	if _, _, whole := sh.peek(pair[1], len(fds)); whole {
		t.Error("one more look, although as many wait as may")
	}
	own, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range own {
		if target, _ := os.Readlink(name); strings.HasPrefix(target, slow.path) {
			t.Errorf("%s is the file", name)
		}
	}
	// Received without room for it, a file is dropped unasked.
	if emptied, _ := sh.throwAway(pair[1], false); !emptied {
		t.Error("the queue could not be emptied in time")
	}
	var now tables
	if n := now.inFlight(unix.AT_FDCWD, ownInfo(pair[1])); n != 0 {
		t.Errorf("%d descriptors are left in the queue", n)
	}
}
