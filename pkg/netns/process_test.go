package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"sallyport/test/outside"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stay starts a process that waits in new namespaces.
func stay(t *testing.T, flags uintptr) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	c := exec.Command("sh", "-c", "echo there; exec cat")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&syscall.CLONE_NEWUSER != 0 {
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}
	}
	if _, err := outside.Start(t, c).Line(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenProven(t *testing.T) {
	c := stay(t, syscall.CLONE_NEWNET)
	fine := func() error { return nil }
	ns, err := OpenProven(c.Process.Pid, fine)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	want, err := InodeOf(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Inode(ns); err != nil || got != want {
		t.Errorf("inode %d, %v, want %d", got, err, want)
	}
	no := errors.New("another cgroup")
	if _, err := OpenProven(c.Process.Pid, func() error { return no }); !errors.Is(err, no) {
		t.Errorf("without proof: %v", err)
	}
	// It ends after its namespace was opened: nobody knows whose pid it is now.
	_, err = OpenProven(c.Process.Pid, func() error { c.Process.Kill(); c.Wait(); return nil })
	if !errors.Is(err, ErrGone) {
		t.Errorf("a process that ended meanwhile: %v", err)
	}
	if _, err := OpenProven(c.Process.Pid, fine); !errors.Is(err, ErrGone) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestSameRuler(t *testing.T) {
	for flags, want := range map[uintptr]bool{syscall.CLONE_NEWNET: true, syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER: false} {
		ns, err := OpenPID(stay(t, flags).Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := SameRuler(ns); err != nil || got != want {
			t.Errorf("flags %#x: %v, %v", flags, got, err)
		}
		ns.Close()
	}
}

func TestRaiseLoopback(t *testing.T) {
	ns, err := OpenPID(stay(t, syscall.CLONE_NEWNET).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	l, err := ListenTCP(ns, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	if c, err := Dial(t.Context(), ns, "tcp", addr); err == nil {
		c.Close()
		t.Error("a new namespace has its loopback up")
	}
	for _, want := range []bool{true, false} {
		if raised, err := RaiseLoopback(ns); err != nil || raised != want {
			t.Fatalf("raised %v, %v, want %v", raised, err, want)
		}
	}
	// What listens there is reached from there alone.
	if c, err := Dial(t.Context(), nil, "tcp", addr); err == nil && accepts(t, l, c) {
		t.Error("reached from another namespace")
	}
	c, err := Dial(t.Context(), ns, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestGateways(t *testing.T) {
	ns, err := OpenPID(stay(t, syscall.CLONE_NEWNET).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if list, err := Gateways(ns); err != nil || len(list) > 0 {
		t.Errorf("a new namespace: %v, %v", list, err)
	}
	err = Do(ns, func() error {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("198.51.100.2/24")
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: net.ParseIP("198.51.100.1")})
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Gateways(ns)
	if want := []netip.Addr{netip.MustParseAddr("198.51.100.1")}; err != nil || !slices.Equal(list, want) {
		t.Errorf("%v, %v, want %v", list, err, want)
	}
}

// TestFirstThreadGone: a process lives on when its first thread has ended, and is
// in its namespace as before.
func TestFirstThreadGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3: its ctypes end a thread by itself")
	}
	const exit = 60 // SYS_exit on amd64
	if runtime.GOARCH != "amd64" {
		t.Skip("the number of exit(2) is that of amd64")
	}
	cmd := exec.Command(python, "-c", fmt.Sprintf("import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nctypes.CDLL(None).syscall(%d, 0)", exit))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	pid := cmd.Process.Pid
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(handle(pid)); errors.Is(err, unix.ENOENT) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first thread has not ended")
		}
	}
	inode, err := InodeOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := OpenProven(pid, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if opened, err := Inode(ns); err != nil || opened != inode {
		t.Errorf("opened %d, want %d: %v", opened, inode, err)
	}
	found := false
	if err := Each(nil, func(ns *os.File) error {
		at, err := Inode(ns)
		found = found || at == inode
		return err
	}); err != nil || !found {
		t.Errorf("found among all: %v, %v", found, err)
	}
}
