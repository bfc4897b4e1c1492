package confine

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func fileOf(t *testing.T, fd int, err error) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRefusedDescriptors(t *testing.T) {
	needRoot(t)
	tests := []struct {
		name, want string
		open       func(t *testing.T) *os.File
	}{
		{"tcp", "an internet socket", func(t *testing.T) *os.File {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return fileOf(t, fd, err)
		}},
		{"tcp6 listener", "an internet socket", func(t *testing.T) *os.File {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			f, err := l.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			return f
		}},
		{"udp6", "an internet socket", func(t *testing.T) *os.File {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			return fileOf(t, fd, err)
		}},
		{"packet", "a socket of family 17", func(t *testing.T) *os.File {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			return fileOf(t, fd, err)
		}},
		{"vsock", "a socket of family 40", func(t *testing.T) *os.File {
			fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				t.Skip("this kernel has no AF_VSOCK")
			}
			return fileOf(t, fd, err)
		}},
		{"io_uring", "an io_uring", func(t *testing.T) *os.File {
			var params [120]byte
			fd, _, e := unix.Syscall(ioUringSetup, 1, uintptr(unsafe.Pointer(&params)), 0)
			if e != 0 {
				t.Skipf("this kernel refuses io_uring: %v", e)
			}
			return fileOf(t, int(fd), nil)
		}},
		{"cgroup file", "a cgroup control file", func(t *testing.T) *os.File {
			fd, err := unix.Open(findTree(t).Point()+"/cgroup.procs", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return fileOf(t, fd, err)
		}},
		{"socket path", "the path of a socket", func(t *testing.T) *os.File {
			path := filepath.Join(sharedDir(t), "s")
			listen(t, path)
			fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			return fileOf(t, fd, err)
		}},
		{"tun", "a network device", func(t *testing.T) *os.File {
			path := filepath.Join(sharedDir(t), "tun")
			if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(miscMajor, tunMinor))); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Skipf("no tun device in this kernel: %v", err)
			}
			return fileOf(t, fd, err)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := wrapped(t, asNobody("true"))
			cmd.ExtraFiles = []*os.File{os.Stderr, tt.open(t)}
			r := run1(t, cmd)
			if r.code != ExitFailed || !strings.Contains(r.err, "4 is "+tt.want) {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("as stdin", func(t *testing.T) {
		cmd := wrapped(t, asNobody("true"))
		cmd.Stdin = tests[0].open(t)
		if r := run1(t, cmd); r.code != ExitFailed || !strings.Contains(r.err, "0 is an internet socket") {
			t.Errorf("%+v", r)
		}
	})
}

func TestKeptDescriptors(t *testing.T) {
	needRoot(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := fileOf(t, pair[0], nil), fileOf(t, pair[1], nil)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	netlink := fileOf(t, fd, err)
	fd, err = unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	memory := fileOf(t, fd, err)
	files := []*os.File{w, far, netlink, memory}
	free := exec.Command("ls", "/proc/self/fd/")
	free.ExtraFiles = files
	want := succeed(t, free)
	cmd := wrapped(t, asNobody("sh", "-c", "echo pipe >&3; echo socket >&4; echo memory >&6; exec ls /proc/self/fd/"))
	cmd.ExtraFiles = files
	if out := succeed(t, cmd); out != want {
		t.Errorf("descriptors %q, want %q", out, want)
	}
	w.Close()
	buf := make([]byte, 16)
	for name, f := range map[string]*os.File{"pipe\n": r, "socket\n": near} {
		if n, err := f.Read(buf); err != nil || string(buf[:n]) != name {
			t.Errorf("%q, %v, want %q", buf[:n], err, name)
		}
	}
	if n, err := memory.ReadAt(buf, 0); string(buf[:n]) != "memory\n" {
		t.Errorf("memory: %q, %v", buf[:n], err)
	}
}

// TestInheritedDirectory: a directory opened outside shows the mounts outside.
func TestInheritedDirectory(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	if err := os.Mkdir(dir+"/hidden", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir + "/hidden/f", dir + "/f"} {
		if err := os.WriteFile(f, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, flags := range []int{unix.O_RDONLY, unix.O_PATH} {
		fd, err := unix.Open(dir, flags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		outside := fileOf(t, fd, err)
		fd, err = unix.Open(dir+"/hidden", flags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		inside := fileOf(t, fd, err)
		s := asNobody("sh", "-c", `"$0" confine-probe at 3 hidden/f; "$0" confine-probe at 3 f; "$0" confine-probe at 4 f; "$0" confine-probe at 4 ../hidden/f`, self)
		s.Hide = []Hidden{{Path: dir + "/hidden"}}
		cmd := wrapped(t, s)
		cmd.ExtraFiles = []*os.File{outside, inside}
		if got, want := succeed(t, cmd), "openat: ENOENT\nopenat: ok\nx\nopenat: ENOENT\nopenat: ENOENT\n"; got != want {
			t.Errorf("flags %#x: got %q, want %q", flags, got, want)
		}
	}
	// Opened, then mounted over on the host: its path now is another place.
	over := dir + "/over"
	if err := os.Mkdir(over, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(over, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	under := fileOf(t, fd, err)
	if err := unix.Mount("test", over, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(over, unix.MNT_DETACH) })
	cmd := wrapped(t, asNobody("true"))
	cmd.ExtraFiles = []*os.File{under}
	if r := run1(t, cmd); r.code != ExitFailed || !strings.Contains(r.err, "moved") {
		t.Errorf("a directory mounted over: %+v", r)
	}
	gone := dir + "/gone"
	if err := os.Mkdir(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err = unix.Open(gone, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	f := fileOf(t, fd, err)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	cmd = wrapped(t, asNobody("true"))
	cmd.ExtraFiles = []*os.File{f}
	if r := run1(t, cmd); r.code != ExitFailed || !strings.Contains(r.err, "reopen") {
		t.Errorf("a removed directory: %+v", r)
	}
}

func TestCheckDescriptors(t *testing.T) {
	if err := CheckDescriptors(); err != nil {
		t.Fatalf("nothing inherited: %v", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	f := fileOf(t, fd, err)
	if err := CheckDescriptors(); !errors.Is(err, ErrDescriptor) {
		t.Errorf("got %v", err)
	}
	f.Close()
}
