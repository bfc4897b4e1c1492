package store

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a service manager's socket.
func manager(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, path
}

// receive gives one message and how many descriptors came with it.
func receive(t *testing.T, c *net.UnixConn) (string, []int) {
	t.Helper()
	b, oob := make([]byte, 1024), make([]byte, 1024)
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, m, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	msgs, _ := unix.ParseSocketControlMessage(oob[:m])
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	return string(b[:n]), fds
}

func TestPut(t *testing.T) {
	c, path := manager(t)
	s, err := Open(func(name string) string {
		if name == "NOTIFY_SOCKET" {
			return path
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Put("tcp4.7", int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	got, fds := receive(t, c)
	if got != "FDSTORE=1\nFDPOLL=0\nFDNAME=tcp4.7" || len(fds) != 1 {
		t.Fatalf("%q with %d descriptors", got, len(fds))
	}
	defer unix.Close(fds[0])
	sa, err := unix.Getsockname(fds[0])
	if err != nil || sa.(*unix.SockaddrInet4).Port != l.Addr().(*net.TCPAddr).Port {
		t.Errorf("stored %v, %v", sa, err)
	}
	if err := s.Drop("tcp4.7"); err != nil {
		t.Fatal(err)
	}
	if got, fds := receive(t, c); got != "FDSTOREREMOVE=1\nFDNAME=tcp4.7" || len(fds) != 0 {
		t.Errorf("%q with %d descriptors", got, len(fds))
	}
	for _, name := range []string{"", "a:b", "a\nb", strings.Repeat("x", 256)} {
		if s.Put(name, int(f.Fd())) == nil {
			t.Errorf("name %q is taken", name)
		}
	}
}

// TestNobody: without a service manager everything is a no-op.
func TestNobody(t *testing.T) {
	s, err := Open(func(string) string { return "" })
	if s != nil || err != nil {
		t.Fatalf("%v, %v", s, err)
	}
	if s.Take("x") != nil || s.Put("x", 0) != nil || s.Drop("x") != nil || s.Clear() != nil || s.Names() != nil {
		t.Error("a store without a manager does something")
	}
}

// TestInherit runs as a service that was started with descriptors.
func TestInherit(t *testing.T) {
	c, path := manager(t)
	if os.Getenv("STORE_TEST") == "" {
		files := make([]*os.File, 4)
		for i := range files {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString(strconv.Itoa(i))
			files[i] = f
		}
		// As with systemd the number of the process is only known in it.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-", os.Args[0], "-test.run=^TestInherit$", "-test.v")
		cmd.Env = append(os.Environ(), "STORE_TEST=1", "NOTIFY_SOCKET="+path, "LISTEN_FDS=4", "LISTEN_FDNAMES=one:two:one:four")
		cmd.ExtraFiles = files
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		for range 2 { // one and two were taken, nobody asked for four
			if got, _ := receive(t, c); got == "FDSTOREREMOVE=1\nFDNAME=four" {
				return
			}
		}
		t.Error("what nobody took was not dropped")
		return
	}
	s, err := Open(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		f := s.Take(name)
		if f == nil {
			return "none"
		}
		defer f.Close()
		b := make([]byte, 9)
		n, _ := f.ReadAt(b, 0)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s is inherited by what this process starts", name)
		}
		return string(b[:n])
	}
	// A name that comes twice is its first descriptor.
	for _, w := range [][2]string{{"two", "1"}, {"one", "0"}, {"one", "none"}, {"", "none"}} {
		if got := read(w[0]); got != w[1] {
			t.Errorf("%q: %s, want %s", w[0], got, w[1])
		}
	}
	if names := s.Names(); len(names) != 1 || names[0] != "four" {
		t.Errorf("left %q", names)
	}
	if err := s.Clear(); err != nil {
		t.Error(err)
	}
}
