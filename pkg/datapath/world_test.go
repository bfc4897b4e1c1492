package datapath_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/origin"
)

// The two ends of the cable between the workload's namespace and the "internet".
var (
	inside4  = netip.MustParseAddr("203.0.113.2")
	outside4 = netip.MustParseAddr("203.0.113.1")
	inside6  = netip.MustParseAddr("2001:db8::2")
	outside6 = netip.MustParseAddr("2001:db8::1")
)

var worlds atomic.Int32

// A world is one sallyport without guard and worker: a network namespace with our
// listeners in it, a second one with an origin at the other end of a cable, and a
// temporary bpffs. Whatever TCP or UDP packet reaches the far end is counted.
type world struct {
	t       testing.TB
	name    string
	d       *datapath.Datapath
	options datapath.Options
	root    string // cgroup2
	inside  *os.File
	outside *os.File
	netns   uint64
	reader  *origin.Reader

	tcp4, tcp6 *net.TCPListener
	dns4, dns6 *net.UDPConn
	probe      *net.TCPListener

	leaked atomic.Int64 // TCP and UDP packets seen at the far end

	mu       sync.Mutex
	accepted []accepted
	events   []datapath.Event
	leaks    []string // beginnings of leaked packets
	changed  chan struct{}

	stopEvents func()
}

// accepted is what the worker would see of one connection.
type accepted struct {
	flow origin.Flow
	err  error
	data string
	conn *net.TCPConn
}

func cgroupRoot(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if i := strings.Index(line, " - cgroup2 "); i > 0 && fields[3] == "/" {
			return fields[4]
		}
	}
	t.Skip("no cgroup2 mount")
	return ""
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: BPF, namespaces and cgroups")
	}
}

// bpffs mounts a BPF file system of the test's own.
func bpffs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount bpffs: %v", err)
		}
	})
	return dir
}

func newWorld(t testing.TB, change ...func(*datapath.Options)) *world {
	t.Helper()
	needRoot(t)
	w := &world{
		t:       t,
		name:    fmt.Sprintf("sp-dp-%d-%d", os.Getpid(), worlds.Add(1)),
		root:    cgroupRoot(t),
		changed: make(chan struct{}, 1),
	}
	w.inside, w.outside = newNetns(t), newNetns(t)
	w.cable()
	w.netns = netnsCookie(t, w.inside)
	w.options = datapath.Options{
		PinDir:       filepath.Join(bpffs(t), "sallyport"),
		Places:       256,
		CgroupRoot:   w.root,
		KeeperCgroup: w.root,
	}
	for _, c := range change {
		c(&w.options)
	}
	d, err := datapath.Create(w.options)
	if err != nil {
		t.Fatal(err)
	}
	w.d = d
	t.Cleanup(func() {
		if err := w.d.Unload(); err != nil {
			t.Errorf("unload: %v", err)
		}
	})
	w.sniff()
	w.listen()
	w.openReader()
	w.watch()
	return w
}

func (w *world) openReader() {
	am, err := w.d.AcceptedMap()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { am.Close() })
	km, err := w.d.AskerMap()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { km.Close() })
	w.reader = origin.NewReader(am, km)
}

// within runs f on a thread of the namespace. The thread ends with it.
func within(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if ns != nil {
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	}()
	return <-done
}

func newNetns(t testing.TB) *os.File {
	t.Helper()
	var ns *os.File
	err := within(nil, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func netnsCookie(t testing.TB, ns *os.File) (cookie uint64) {
	t.Helper()
	err := within(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// cable joins the namespaces by a veth pair.
func (w *world) cable() {
	up := func(name string, addrs ...string) error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
	err := within(w.inside, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("0"), 0); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: "cable0"},
			PeerName:      "cable1",
			PeerNamespace: netlink.NsFd(w.outside.Fd()),
		})
	})
	if err == nil {
		err = within(w.outside, func() error {
			return up("cable1", outside4.String()+"/24", outside6.String()+"/64", "198.51.100.1/24", "2001:db8:1::1/64")
		})
	}
	if err == nil {
		err = within(w.inside, func() error {
			if err := up("cable0", inside4.String()+"/24", inside6.String()+"/64"); err != nil {
				return err
			}
			for _, gw := range []netip.Addr{outside4, outside6} {
				if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		w.t.Fatalf("cable: %v", err)
	}
}

// sniff counts the TCP and UDP packets that come out of the cable.
func (w *world) sniff() {
	var fd int
	err := within(w.outside, func() (err error) {
		link, err := netlink.LinkByName("cable1")
		if err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
	if err != nil {
		w.t.Fatalf("sniffer: %v", err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for !stop.Load() {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 28 {
				continue
			}
			proto, header := buf[9], 20
			if buf[0]>>4 == 6 {
				// A routing header is as good as the transport.
				proto, header = buf[6], 40
				if proto == unix.IPPROTO_ROUTING {
					proto, header = unix.IPPROTO_TCP, n
				}
			}
			// A bare RST is the kernel's answer for a socket that is gone. To a packet
			// for one of the host's own global IPv6 addresses it answers through that
			// address's interface, also from loopback (net/ipv6/tcp_ipv6.c).
			if proto == unix.IPPROTO_TCP && n == header+20 && buf[header+13]&4 != 0 {
				continue
			}
			if proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP {
				w.leaked.Add(1)
				w.mu.Lock()
				w.leaks = append(w.leaks, fmt.Sprintf("%x", buf[:min(n, 80)]))
				w.mu.Unlock()
			}
		}
	}()
	w.t.Cleanup(func() { stop.Store(true); <-done; unix.Close(fd) })
}

// listen makes, marks and lists our listeners, and accepts as the worker would.
func (w *world) listen() {
	err := within(w.inside, func() error {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		tcp := func(addr string) *net.TCPListener {
			l, err := config.Listen(context.Background(), "tcp", addr)
			if err != nil {
				w.t.Errorf("listen %s: %v", addr, err)
				return nil
			}
			return l.(*net.TCPListener)
		}
		w.tcp4, w.tcp6, w.probe = tcp("127.0.0.1:0"), tcp("[::1]:0"), tcp("127.0.0.1:0")
		var err4, err6 error
		w.dns4, err4 = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		w.dns6, err6 = net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
		return errors.Join(err4, err6)
	})
	if err != nil || w.tcp4 == nil || w.tcp6 == nil || w.probe == nil {
		w.t.Fatalf("listeners: %v", err)
	}
	for _, s := range []syscall.Conn{w.tcp4, w.tcp6, w.dns4, w.dns6, w.probe} {
		w.mark(s)
	}
	for _, l := range []*net.TCPListener{w.tcp4, w.tcp6, w.probe} {
		w.accept(l)
	}
	for _, c := range []*net.UDPConn{w.dns4, w.dns6} {
		w.resolve(c)
	}
	if err := w.d.SetListeners(w.netns, w.listeners()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) listeners() datapath.Listeners {
	return datapath.Listeners{
		TCP4:  w.tcp4.Addr().(*net.TCPAddr).AddrPort(),
		TCP6:  w.tcp6.Addr().(*net.TCPAddr).AddrPort(),
		DNS4:  w.dns4.LocalAddr().(*net.UDPAddr).AddrPort(),
		DNS6:  w.dns6.LocalAddr().(*net.UDPAddr).AddrPort(),
		Probe: w.probe.Addr().(*net.TCPAddr).AddrPort(),
	}
}

func (w *world) mark(s syscall.Conn) {
	raw, err := s.SyscallConn()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(raw.Control(func(fd uintptr) { err = w.d.MarkListener(fd) }), err); err != nil {
		w.t.Fatal(err)
	}
}

// accept takes connections, looks their flow up, and answers what they send.
func (w *world) accept(l *net.TCPListener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			a := accepted{conn: conn}
			a.flow, a.err = w.reader.Flow(conn)
			w.mu.Lock()
			w.accepted = append(w.accepted, a)
			i := len(w.accepted) - 1
			w.mu.Unlock()
			w.wake()
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					if n > 0 {
						w.mu.Lock()
						w.accepted[i].data += string(buf[:n])
						w.mu.Unlock()
						w.wake()
						_, _ = conn.Write(buf[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	w.t.Cleanup(func() {
		l.Close()
		<-done
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, a := range w.accepted {
			if a.conn != nil { // datagrams have none
				a.conn.Close()
			}
		}
	})
}

// resolve answers each datagram with what the asker table says about it.
func (w *world) resolve(c *net.UDPConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			flow, err := w.reader.Asker(w.netns, from)
			w.mu.Lock()
			w.accepted = append(w.accepted, accepted{flow: flow, err: err, data: string(buf[:n])})
			w.mu.Unlock()
			w.wake()
			_, _ = c.WriteToUDPAddrPort(append([]byte("re:"), buf[:n]...), from)
		}
	}()
	w.t.Cleanup(func() { c.Close(); <-done })
}

// watch collects events.
func (w *world) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := w.d
	go func() {
		done <- d.Events(ctx, func(e datapath.Event) {
			w.mu.Lock()
			w.events = append(w.events, e)
			w.mu.Unlock()
			w.wake()
		})
	}()
	w.stopEvents = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("events: %v", err)
		}
	})
	w.t.Cleanup(w.stopEvents)
}

func (w *world) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// await polls a condition, under w.mu, until it holds.
func (w *world) await(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		ok := cond()
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-w.changed:
		case <-tick.C:
		case <-deadline:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("timed out waiting for %s\naccepted: %+v\nevents: %+v", what, w.accepted, w.events)
		}
	}
}

// acceptedAs waits for the connection or datagram whose data is this.
func (w *world) acceptedAs(data string) accepted {
	w.t.Helper()
	var found accepted
	w.await("accepted data "+data, func() bool {
		for _, a := range w.accepted {
			if a.data == data {
				found = a
				return true
			}
		}
		return false
	})
	return found
}

// event waits for an event that fits and gives it.
func (w *world) event(what string, fits func(datapath.Event) bool) datapath.Event {
	w.t.Helper()
	var found datapath.Event
	w.await("event: "+what, func() bool {
		for _, e := range w.events {
			if fits(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (w *world) refused(r datapath.Reason) uint64 {
	w.t.Helper()
	all, err := w.d.Refusals()
	if err != nil {
		w.t.Fatal(err)
	}
	return all[r]
}

func (w *world) resource(name string) uint64 {
	w.t.Helper()
	all, err := w.d.Resources()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.Name == name {
			return r.Entries
		}
	}
	w.t.Fatalf("no resource %s", name)
	return 0
}

// sealed fails if anything came out of the cable.
func (w *world) sealed() {
	w.t.Helper()
	if n := w.leaked.Load(); n != 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t.Errorf("%d packets of the workload came out of the cable: %v", n, w.leaks)
	}
}

// cgroup makes a cgroup below the root and removes it at the end.
func (w *world) cgroup(name string) string {
	w.t.Helper()
	dir := filepath.Join(w.root, w.name+"-"+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		// Tasks leave a cgroup a moment after they are reaped.
		for range 200 {
			if err := unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		w.t.Errorf("cgroup %s stays", dir)
	})
	return dir
}

// workload makes and tags a cgroup.
func (w *world) workload(name string) string {
	w.t.Helper()
	dir := w.cgroup(name)
	if err := w.d.Attach(dir); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
