package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNamespace makes an empty network namespace.
func newNamespace(t testing.TB) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := Current()
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal("new network namespace:", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	if err := Do(r.f, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
	return r.f
}

func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen within 2 min", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func inode(t testing.TB, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		want error
	}{
		{"/proc/self/ns/net", nil},
		{"/proc/self/ns/mnt", ErrNotNamespace},
		{"/proc/self/ns/user", ErrNotNamespace},
		{file, ErrNotNamespace},
		{fifo, ErrNotNamespace},
		{dir, ErrNotNamespace},
		{filepath.Join(dir, "absent"), os.ErrNotExist},
	} {
		f, err := Open(tc.path)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.path, err, tc.want)
		}
		if err == nil {
			f.Close()
		}
	}
	f, err := OpenPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := OpenPID(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pid that is none: %v", err)
	}
}

func TestCookie(t *testing.T) {
	a, b := newNamespace(t), newNamespace(t)
	here, err := Cookie()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{here: true}
	for _, ns := range []*os.File{a, b} {
		cookie, err := CookieOf(ns)
		if err != nil || cookie == 0 || seen[cookie] {
			t.Errorf("cookie %d of a new namespace, seen %v: %v", cookie, seen, err)
		}
		again, err := CookieOf(ns)
		if err != nil || again != cookie {
			t.Errorf("cookie %d, then %d: %v", cookie, again, err)
		}
		seen[cookie] = true
	}
	if same, err := CookieOf(nil); err != nil || same != here {
		t.Errorf("cookie of nil: %d, want %d: %v", same, here, err)
	}
}

// everyThread lists the network namespaces that the process's threads are in.
func everyThread(t *testing.T) map[uint64]int {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]int{}
	for _, path := range threads {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			seen[st.Ino]++
		}
	}
	return seen
}

func TestDoComesBack(t *testing.T) {
	ns := newNamespace(t)
	inside := inode(t, ns)
	failure := errors.New("failure")
	check := func() error {
		f, err := Current()
		if err != nil {
			return err
		}
		defer f.Close()
		if inode(t, f) != inside {
			return errors.New("not inside")
		}
		return nil
	}
	if err := Do(ns, func() error { return errors.Join(check(), failure) }); !errors.Is(err, failure) || strings.Contains(err.Error(), "inside") {
		t.Error(err)
	}
	if err := Do(ns, func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("an fn that did not return gave no error")
	}
	func() {
		defer func() {
			if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "boom") {
				t.Errorf("panic %v, want boom", p)
			}
		}()
		_ = Do(ns, func() error { panic("boom") })
	}()
	if err := Do(ns, func() error { return Do(ns, check) }); err != nil {
		t.Error("nested:", err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := Do(ns, check); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// Threads that ended are gone a little later.
	waitFor(t, "no thread left inside", func() bool { return everyThread(t)[inside] == 0 })
	if err := Do(os.Stdin, check); err == nil {
		t.Error("entered something that is no namespace")
	}
}

func TestListen(t *testing.T) {
	ns := newNamespace(t)
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		addr := netip.MustParseAddrPort(at)
		l, err := ListenTCP(ns, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := ListenUDP(ns, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		options(t, l, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		options(t, u, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		if c, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond); err == nil && accepts(t, l, c) {
			t.Error("reached from outside the namespace")
		}
		if err := Do(ns, func() error {
			c, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				c.Close()
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		// Nobody shares the port, not even with SO_REUSEPORT on his side.
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		}}
		if err := Do(ns, func() error {
			second, err := config.Listen(context.Background(), "tcp", l.Addr().String())
			if err == nil {
				second.Close()
			}
			return err
		}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a second listener: %v, want address in use", err)
		}
		if err := Do(ns, func() error {
			second, err := config.ListenPacket(context.Background(), "udp", u.LocalAddr().String())
			if err == nil {
				second.Close()
			}
			return err
		}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a second UDP socket: %v, want address in use", err)
		}
	}
	if l, err := ListenTCP(ns, netip.MustParseAddrPort("[::ffff:127.0.0.1]:0")); err == nil {
		l.Close()
		t.Error("listens on a mapped address")
	}
}

// accepts reports whether a connection came to this listener, and closes it: somebody
// else may have the port in another namespace.
func accepts(t *testing.T, l *net.TCPListener, c net.Conn) bool {
	t.Helper()
	defer c.Close()
	if err := l.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	defer l.SetDeadline(time.Time{})
	far, err := l.Accept()
	if err != nil {
		return false
	}
	defer far.Close()
	return far.RemoteAddr().String() == c.LocalAddr().String()
}

func options(t *testing.T, c syscall.Conn, kind, protocol int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, o := range []struct{ option, want int }{
			{unix.SO_TYPE, kind}, {unix.SO_PROTOCOL, protocol}, {unix.SO_REUSEPORT, 0},
		} {
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, o.option); err != nil || got != o.want {
				t.Errorf("socket option %d is %d, want %d: %v", o.option, got, o.want, err)
			}
		}
	})
}

func TestAddressBook(t *testing.T) {
	ns := newNamespace(t)
	book, err := NewAddressBook(ns)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(addr string, want bool) {
		t.Helper()
		if got := book.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s local: %v, want %v (%v)", addr, got, want, book.Prefixes())
		}
	}
	expect("127.0.0.1", true)
	expect("127.5.5.5", true) // the whole of 127.0.0.0/8
	expect("::ffff:127.0.0.1", true)
	expect("::1", true)
	expect("203.0.113.1", false)
	expect("::", false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var mu sync.Mutex
	var last []netip.Prefix
	go func() {
		done <- book.Run(ctx, func(list []netip.Prefix) {
			mu.Lock()
			defer mu.Unlock()
			last = list
		})
	}()
	change := func(fn func(lo netlink.Link) error) {
		t.Helper()
		if err := Do(ns, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return fn(lo)
		}); err != nil {
			t.Fatal(err)
		}
	}
	address := func(s string) *netlink.Addr {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	change(func(lo netlink.Link) error {
		return errors.Join(netlink.AddrAdd(lo, address("203.0.113.1/32")), netlink.AddrAdd(lo, address("2001:db8::1/64")))
	})
	waitFor(t, "new addresses", func() bool {
		return book.Contains(netip.MustParseAddr("203.0.113.1")) && book.Contains(netip.MustParseAddr("2001:db8::1%eth0"))
	})
	expect("203.0.113.2", false)
	expect("2001:db8::2", false)
	_, anyIP, _ := net.ParseCIDR("198.51.100.0/24")
	change(func(lo netlink.Link) error {
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: anyIP, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL})
	})
	waitFor(t, "a local route", func() bool { return book.Contains(netip.MustParseAddr("198.51.100.77")) })
	change(func(lo netlink.Link) error { return netlink.AddrDel(lo, address("203.0.113.1/32")) })
	waitFor(t, "an address removed", func() bool { return !book.Contains(netip.MustParseAddr("203.0.113.1")) })
	waitFor(t, "the change to be told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(last, netip.MustParsePrefix("198.51.100.0/24")) && !slices.Contains(last, netip.MustParsePrefix("203.0.113.1/32"))
	})
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("Run does not end with its context")
	}
}

func TestDumpRetries(t *testing.T) {
	calls := 0
	list, err := dump(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(list) != 2 || calls != 3 {
		t.Error(list, err, calls)
	}
	if list, err := dump(func() ([]int, error) { return []int{1}, netlink.ErrDumpInterrupted }); err == nil {
		t.Errorf("an incomplete list %v was taken for an answer", list)
	}
	calls = 0
	if _, err := dump(func() ([]int, error) { calls++; return nil, unix.EPERM }); !errors.Is(err, unix.EPERM) || calls != 1 {
		t.Error(err, calls)
	}
}

func BenchmarkContains(b *testing.B) {
	book, err := NewAddressBook(nil)
	if err != nil {
		b.Fatal(err)
	}
	addr := netip.MustParseAddr("203.0.113.9")
	b.ReportAllocs()
	for b.Loop() {
		book.Contains(addr)
	}
}
