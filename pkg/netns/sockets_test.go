package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a process in another cgroup too.
func TestMain(m *testing.M) {
	if os.Getenv("NETNS_TEST_SOCKETS") != "" {
		holdSockets()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holdSockets opens a socket of each kind and keeps them while standard input is
// open; it says what became of the connection when it reads a line.
func holdSockets() {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	l4, err := plain.Listen(context.Background(), "tcp4", "127.0.0.1:7001")
	fail(err)
	_, err = net.Listen("tcp6", "[::1]:7002") // MPTCP, as Go makes them
	fail(err)
	_, err = net.ListenPacket("udp4", "127.0.0.1:7003")
	fail(err)
	_, err = net.ListenPacket("udp6", "[::1]:7004")
	fail(err)
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, 253)
	fail(err)
	c, err := net.Dial("tcp4", os.Getenv("NETNS_TEST_SOCKETS"))
	fail(err)
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	in.ReadString('\n')
	patience := time.Now().Add(2 * time.Second)
	c.SetReadDeadline(patience)
	_, err = c.Read(make([]byte, 1))
	fmt.Println("read:", err)
	l4.(*net.TCPListener).SetDeadline(patience)
	_, err = l4.Accept()
	fmt.Println("accept:", err)
	in.ReadString('\n')
}

// newCgroup makes a cgroup under cgroup2's mount.
func newCgroup(t *testing.T, name string) (dir string, id uint64) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			dir = filepath.Join(fields[4], fmt.Sprintf("netns_test_%d_%s", os.Getpid(), name))
		}
	}
	if dir == "" {
		t.Skip("no cgroup2 mount")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return dir, st.Ino
}

func TestSocketsOfCgroup(t *testing.T) {
	ns := newNamespace(t)
	dir, id := newCgroup(t, "a")
	_, empty := newCgroup(t, "b")
	peer, err := ListenTCP(ns, netip.MustParseAddrPort("127.0.0.1:7000"))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "NETNS_TEST_SOCKETS="+peer.Addr().String())
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Do(ns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		cmd.Wait()
	}()
	out := bufio.NewReader(stdout)
	line := func() string {
		t.Helper()
		s, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(s)
	}
	if got := line(); got != "ready" {
		t.Fatal(got)
	}
	far, err := peer.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	list, err := Sockets(ns, id)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		if s.Cgroup != id || s.Cookie == 0 {
			t.Errorf("%v: cgroup %d, cookie %d", s, s.Cgroup, s.Cookie)
		}
		got = append(got, fmt.Sprint(s.Protocol, " ", s.Local, " ", s.State))
	}
	slices.Sort(got)
	local := far.RemoteAddr().String()
	want := []string{
		"6 " + local + " 1", "6 127.0.0.1:7001 10", "6 [::1]:7002 10",
		"17 127.0.0.1:7003 7", "17 [::1]:7004 7",
	}
	if rawDiag(t) {
		want = append(want, "255 0.0.0.0:253 7")
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("sockets\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if list, err := Sockets(ns, empty); err != nil || len(list) > 0 {
		t.Errorf("sockets of an empty cgroup: %v, %v", list, err)
	}
	if list, err := Sockets(nil, id); err != nil || len(list) > 0 {
		t.Errorf("sockets in another namespace: %v, %v", list, err)
	}

	n, err := DestroySockets(ns, id)
	if err != nil || n != len(want)-1 { // not the MPTCP listener
		t.Errorf("destroyed %d of %d: %v", n, len(want), err)
	}
	io.WriteString(in, "\n")
	if got := line(); !strings.Contains(got, "abort") {
		t.Errorf("%s, want a connection abort", got)
	}
	if got := line(); strings.HasSuffix(got, "<nil>") {
		t.Errorf("%s, want an error", got)
	}
	far.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer's connection: %v, want a reset", err)
	}
	for _, s := range list {
		if err := Destroy(ns, s); err != nil && s.Local.Port() != 7002 {
			t.Error("a second time:", err)
		}
	}
}

// rawDiag reports whether this kernel lists raw sockets.
func rawDiag(t *testing.T) bool {
	t.Helper()
	_, err := sockets(unix.AF_INET, unix.IPPROTO_RAW, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	return err == nil
}

func TestParseSocketBounds(t *testing.T) {
	for n := range diagMessageSize {
		if _, err := parseSocket(make([]byte, n), unix.IPPROTO_TCP); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
	b := append(make([]byte, diagMessageSize), 0xff, 0xff, 21, 0)
	if _, err := parseSocket(b, unix.IPPROTO_TCP); err == nil {
		t.Error("an attribute longer than the message: no error")
	}
}

func FuzzParseSocket(f *testing.F) {
	b := append(make([]byte, diagMessageSize), 12, 0, 21, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	b[0] = unix.AF_INET
	f.Add(b)
	f.Add(make([]byte, diagMessageSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSocket(b, unix.IPPROTO_TCP)
		if err == nil && !s.Local.IsValid() {
			t.Error("invalid address without error")
		}
	})
}
