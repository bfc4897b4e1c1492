package foreign

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newNameless opens a file whose path is too long to be told: more than PATH_MAX
// bytes, which is as far as readlink(2) of a descriptor goes.
func newNameless(t *testing.T) (fd int) {
	t.Helper()
	dir, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 250)
	for range unix.PathMax/len(name) + 1 {
		if err := unix.Mkdirat(dir, name, 0o700); err != nil {
			t.Fatal(err)
		}
		below, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(dir)
		if err != nil {
			t.Fatal(err)
		}
		dir = below
	}
	defer unix.Close(dir)
	if fd, err = unix.Openat(dir, "file", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Fatalf("the path of the file is told: %d bytes, %v", len(name), err)
	}
	return fd
}

// TestPeekNameless: a file in a queue whose name cannot be told is not taken for an
// io_uring: it comes into no table but that of the thread that looks. A socket beside
// it is found.
func TestPeekNameless(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	file := newNameless(t)
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	fds := []int{file, sock, file}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	its := inode(t, file)
	unix.Close(file)
	sh := newShare(New(Options{}), Share{})
	sh.patience = time.Minute
	received, seen, whole := sh.peek(pair[1], len(fds))
	if seen != len(fds) || !whole || len(received) != 1 || inode(t, received[0]) != inode(t, sock) {
		t.Errorf("%d of %d descriptors, received %v, whole %v", seen, len(fds), received, whole)
	}
	own, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range own {
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Ino == its {
			t.Errorf("%s is the file", name)
		}
	}
	sh.closeTaken(received...)
}
