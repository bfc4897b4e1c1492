package datapath_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

func TestSocketTypes(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	for _, tt := range []struct {
		name                   string
		family, kind, protocol int
		reason                 datapath.Reason // NoReason: allowed
	}{
		{"tcp", unix.AF_INET, unix.SOCK_STREAM, 0, datapath.NoReason},
		{"tcp by number", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP, datapath.NoReason},
		{"udp", unix.AF_INET, unix.SOCK_DGRAM, 0, datapath.NoReason},
		{"udp by number", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, datapath.NoReason},
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM, 0, datapath.NoReason},
		{"mptcp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, datapath.ProtocolDenied},
		{"mptcp ipv6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, datapath.ProtocolDenied},
		{"udp-lite", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, datapath.ProtocolDenied},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, datapath.ProtocolDenied},
		{"ping ipv6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, datapath.ProtocolDenied},
		{"sctp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, datapath.ProtocolDenied},
		{"raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, datapath.RawDenied},
		{"raw tcp", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_TCP, datapath.RawDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := w.refused(max(tt.reason, 1))
			r := c.do(call{Op: "socket", Family: tt.family, Type: tt.kind, Protocol: tt.protocol})
			if tt.reason == datapath.NoReason {
				if err := r.err(); err != nil {
					t.Error(err)
				}
				return
			}
			if errno := unix.Errno(r.Errno); errno == unix.EPROTONOSUPPORT {
				t.Skip("this kernel has no such protocol") // and so nothing to refuse
			} else if errno != unix.EPERM {
				t.Fatalf("got %v, want EPERM", r.err())
			}
			if n := w.refused(tt.reason) - before; n != 1 {
				t.Errorf("%s counted %d times", tt.reason, n)
			}
			w.event(tt.reason.String(), func(e datapath.Event) bool {
				return e.Kind == datapath.Refused && e.Reason == tt.reason && e.Flow.PID == c.pid() &&
					(tt.protocol == 0 || int(e.Flow.Protocol) == tt.protocol)
			})
		})
	}
}

func TestNoListenerIsRefused(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	refused := func(what string, reason datapath.Reason) {
		t.Helper()
		before := w.refused(reason)
		for _, dst := range []string{"203.0.113.1:80", "[2001:db8::1]:80", "[::ffff:203.0.113.1]:80"} {
			family := unix.AF_INET6
			if dst[0] != '[' {
				family = unix.AF_INET
			}
			fd := c.tcp(family)
			c.fails(call{Op: "connect", FD: fd, Addr: dst}, unix.EPERM)
			c.fails(call{Op: "sendto", FD: fd, Addr: dst, Data: "x", Flags: unix.MSG_FASTOPEN}, unix.EPERM)
			c.must(call{Op: "close", FD: fd})
			fd = c.udp(family)
			dns := netip.AddrPortFrom(netip.MustParseAddrPort(dst).Addr(), 53).String()
			c.fails(call{Op: "connect", FD: fd, Addr: dns}, unix.EPERM)
			c.fails(call{Op: "sendto", FD: fd, Addr: dns, Data: "x"}, unix.EPERM)
			c.must(call{Op: "close", FD: fd})
		}
		if n := w.refused(reason) - before; n != 12 {
			t.Errorf("%s: %s counted %d times, want 12", what, reason, n)
		}
	}
	if err := w.d.RemoveListeners(w.netns); err != nil {
		t.Fatal(err)
	}
	refused("unknown namespace", datapath.NoListener)

	if err := w.d.SetListeners(w.netns, w.listeners()); err != nil {
		t.Fatal(err)
	}
	l := w.listeners()
	w.tcp4.Close()
	w.tcp6.Close()
	w.dns4.Close()
	w.dns6.Close()
	refused("daemon dead", datapath.NoListener)

	// Another process of the host binds the ports, as root, also with SO_REUSEPORT.
	fake := w.spawn(w.cgroup("fake"))
	for _, tt := range []struct {
		family, kind int
		addr         netip.AddrPort
	}{
		{unix.AF_INET, unix.SOCK_STREAM, l.TCP4}, {unix.AF_INET6, unix.SOCK_STREAM, l.TCP6},
		{unix.AF_INET, unix.SOCK_DGRAM, l.DNS4}, {unix.AF_INET6, unix.SOCK_DGRAM, l.DNS6},
	} {
		fd := fake.must(call{Op: "socket", Family: tt.family, Type: tt.kind}).Value
		fake.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_REUSEPORT, Value: []byte{1, 0, 0, 0}})
		fake.must(call{Op: "bind", FD: fd, Addr: tt.addr.String()})
		if tt.kind == unix.SOCK_STREAM {
			fake.must(call{Op: "listen", FD: fd})
		}
	}
	refused("fake listener", datapath.ForeignListener)
	w.sealed()
}

// While ours is there, nobody can share its port.
func TestListenerPortCannotBeShared(t *testing.T) {
	w := newWorld(t)
	w.workload("a")
	c := w.spawn(w.cgroup("fake"))
	for _, addr := range []string{w.listeners().TCP4.String(), "0.0.0.0:" + strconv.Itoa(int(w.listeners().TCP4.Port()))} {
		fd := c.tcp(unix.AF_INET)
		c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_REUSEPORT, Value: []byte{1, 0, 0, 0}})
		c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_BINDTODEVICE, Value: []byte("lo\x00")})
		r := c.do(call{Op: "bind", FD: fd, Addr: addr})
		if r.Errno == 0 {
			r = c.do(call{Op: "listen", FD: fd})
		}
		if unix.Errno(r.Errno) != unix.EADDRINUSE {
			t.Errorf("%s: got %v, want EADDRINUSE", addr, r.err())
		}
	}
}

// A SYN that is sent again after the listener was replaced stays here.
func TestListenerReplacedBeforeSYN(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	l := w.listeners()
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "setsockopt", FD: fd, Level: unix.IPPROTO_TCP, Option: unix.TCP_FASTOPEN_CONNECT, Value: []byte{1, 0, 0, 0}})
	// Give this destination a cookie first, so that the connect below is put off.
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	w.tcp4.Close()
	fake := w.spawn(w.cgroup("fake"))
	ffd := fake.tcp(unix.AF_INET)
	fake.must(call{Op: "setsockopt", FD: ffd, Level: unix.SOL_SOCKET, Option: unix.SO_REUSEADDR, Value: []byte{1, 0, 0, 0}})
	fake.must(call{Op: "bind", FD: ffd, Addr: l.TCP4.String()})
	fake.must(call{Op: "listen", FD: ffd})
	if r := c.do(call{Op: "send", FD: fd, Data: "for sallyport only"}); r.Errno == 0 {
		fake.must(call{Op: "setsockopt", FD: ffd, Level: unix.SOL_SOCKET, Option: unix.SO_RCVTIMEO, Value: make([]byte, 16)})
	}
	// Whether the SYN was put off depends on the host's Fast Open cookies; either
	// way the fake must have nothing to accept.
	nfd := ffd
	fake.must(call{Op: "setsockopt", FD: nfd, Level: unix.SOL_SOCKET, Option: unix.SO_RCVTIMEO,
		Value: []byte{0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x0d, 3, 0, 0, 0, 0, 0}}) // 200 ms
	fake.fails(call{Op: "accept", FD: nfd}, unix.EAGAIN)
	w.sealed()
}

func TestOwnAddressesAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	metrics := netip.MustParseAddrPort("203.0.113.2:9595")
	if err := w.d.SetOwnAddresses([]netip.AddrPort{metrics, netip.MustParseAddrPort("0.0.0.0:9596")}); err != nil {
		t.Fatal(err)
	}
	// A direct rule does not help.
	if err := w.d.SetDirect([]datapath.DirectRule{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Last: 65535, Protocol: datapath.TCP, Rule: "all"}}); err != nil {
		t.Fatal(err)
	}
	l := w.listeners()
	port := func(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }
	for _, tt := range []struct {
		family, kind int
		dst          string
	}{
		{unix.AF_INET, unix.SOCK_STREAM, l.TCP4.String()},
		{unix.AF_INET, unix.SOCK_STREAM, "0.0.0.0:" + port(l.TCP4)},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::ffff:127.0.0.1]:" + port(l.TCP4)},
		{unix.AF_INET6, unix.SOCK_STREAM, l.TCP6.String()},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::]:" + port(l.TCP6)},
		{unix.AF_INET, unix.SOCK_STREAM, l.Probe.String()},
		{unix.AF_INET, unix.SOCK_STREAM, metrics.String()},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::ffff:203.0.113.2]:9595"},
		{unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:9596"},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::1]:9596"},
		{unix.AF_INET, unix.SOCK_DGRAM, l.DNS4.String()},
		{unix.AF_INET6, unix.SOCK_DGRAM, l.DNS6.String()},
	} {
		before := w.refused(datapath.OwnAddress)
		fd := c.must(call{Op: "socket", Family: tt.family, Type: tt.kind}).Value
		c.fails(call{Op: "connect", FD: fd, Addr: tt.dst}, unix.EPERM)
		want := uint64(1)
		if tt.kind == unix.SOCK_DGRAM {
			c.fails(call{Op: "sendto", FD: fd, Addr: tt.dst, Data: "x"}, unix.EPERM)
			want = 2
		}
		if n := w.refused(datapath.OwnAddress) - before; n != want {
			t.Errorf("%s: counted %d times, want %d", tt.dst, n, want)
		}
	}
	w.sealed()
}

func TestPlaces(t *testing.T) {
	w := newWorld(t, func(o *datapath.Options) { o.Places = 6 })
	a, b := w.spawn(w.workload("a")), w.spawn(w.workload("b"))
	c := w.spawn(w.workload("c"))
	connect := func(c *child, data string) int {
		t.Helper()
		fd := c.tcp(unix.AF_INET)
		c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
		c.must(call{Op: "send", FD: fd, Data: data})
		if got := w.acceptedAs(data); got.err != nil || got.flow.PID != c.pid() {
			t.Errorf("flow %+v, %v; want of pid %d", got.flow, got.err, c.pid())
		}
		return fd
	}
	var held []int
	for i := range 3 {
		held = append(held, connect(a, "a"+strconv.Itoa(i)))
	}
	// Half of the places is the most that one workload gets.
	fd := a.tcp(unix.AF_INET)
	a.fails(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"}, unix.EPERM)
	if n := w.refused(datapath.WorkloadFull); n != 1 {
		t.Errorf("workload_full counted %d times", n)
	}
	w.event("workload_full", func(e datapath.Event) bool {
		return e.Reason == datapath.WorkloadFull && e.Flow.PID == a.pid() && e.Flow.Dst == netip.MustParseAddrPort("203.0.113.1:443")
	})
	for i := range 3 {
		connect(b, "b"+strconv.Itoa(i))
	}
	fd = c.tcp(unix.AF_INET)
	c.fails(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"}, unix.EPERM)
	c.fails(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:443", Data: "x", Flags: unix.MSG_FASTOPEN}, unix.EPERM)
	if n := w.refused(datapath.MapFull); n != 2 {
		t.Errorf("map_full counted %d times", n)
	}
	// A place comes back after close, and after the process is gone.
	a.must(call{Op: "close", FD: held[0]})
	w.await("a place", func() bool { return w.resource("bpf_places") == 5 })
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	b.end()
	w.await("places of a process that is gone", func() bool { return w.resource("bpf_places") == 3 })
	w.sealed()
}

// Attempts that never send a SYN give their place back with the socket.
func TestPlaceWithoutSYN(t *testing.T) {
	w := newWorld(t, func(o *datapath.Options) { o.Places = 4 })
	c := w.spawn(w.workload("a"))
	for range 20 {
		fd := c.tcp(unix.AF_INET6)
		// Bound to an IPv4 address the socket has no way to ::1: the kernel fails
		// after the program has decided.
		c.must(call{Op: "bind", FD: fd, Addr: "[::ffff:203.0.113.2]:0"})
		if r := c.do(call{Op: "connect", FD: fd, Addr: "[2001:db8::1]:80"}); r.Errno == 0 || unix.Errno(r.Errno) == unix.EPERM {
			t.Fatalf("connect: %v", r.err())
		}
		if n := w.resource("bpf_places"); n != 1 {
			t.Fatalf("%d places held", n)
		}
		c.must(call{Op: "close", FD: fd})
		if n := w.resource("bpf_places"); n != 0 {
			t.Fatalf("%d places held after close", n)
		}
	}
	w.sealed()
}

// An early close, then another workload or an untagged process on the same source
// port while the worker sleeps: each connection keeps its own origin.
func TestSourcePortReuse(t *testing.T) {
	w := newWorld(t)
	groupA, groupB := w.workload("a"), w.workload("b")
	a, b, host := w.spawn(groupA), w.spawn(groupB), w.spawn(w.cgroup("host"))
	// A listener of ours whose connections nobody accepts for now.
	var sleepy *net.TCPListener
	err := within(w.inside, func() error {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err == nil {
			sleepy = l.(*net.TCPListener)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.mark(sleepy)
	l := w.listeners()
	l.TCP4 = sleepy.Addr().(*net.TCPAddr).AddrPort()
	if err := w.d.SetListeners(w.netns, l); err != nil {
		t.Fatal(err)
	}
	reset := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	connect := func(c *child, dst, data string) {
		fd := c.tcp(unix.AF_INET)
		c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_REUSEADDR, Value: []byte{1, 0, 0, 0}})
		c.must(call{Op: "bind", FD: fd, Addr: "127.0.0.1:40404"})
		c.must(call{Op: "connect", FD: fd, Addr: dst})
		c.must(call{Op: "send", FD: fd, Data: data})
		c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_LINGER, Value: reset})
		c.must(call{Op: "close", FD: fd})
	}
	connect(a, "203.0.113.1:443", "from a")
	connect(host, l.TCP4.String(), "from the host")
	connect(b, "203.0.113.1:444", "from b")
	w.accept(sleepy)
	w.await("three connections", func() bool { return len(w.accepted) == 3 })
	w.mu.Lock()
	got := w.accepted
	w.mu.Unlock()
	if got[0].err != nil || got[0].flow.Cgroup != inode(t, groupA) || got[0].flow.Dst.Port() != 443 {
		t.Errorf("first: %+v, %v; want of workload a", got[0].flow, got[0].err)
	}
	if got[1].err == nil {
		t.Errorf("second: %+v; an untagged process has no flow", got[1].flow)
	}
	if got[2].err != nil || got[2].flow.Cgroup != inode(t, groupB) || got[2].flow.Dst.Port() != 444 {
		t.Errorf("third: %+v, %v; want of workload b", got[2].flow, got[2].err)
	}
	if n := w.resource("bpf_handoffs"); n != 0 {
		t.Errorf("%d handoffs left", n)
	}
}

// The worker has the read-only map, its connection, and no capability.
func TestFlowWithoutPrivilege(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	c.must(call{Op: "send", FD: fd, Data: "hello"})
	a := w.acceptedAs("hello")
	m, err := w.d.AcceptedMap()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	conn, err := a.conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	worker := w.spawn(w.cgroup("worker"), func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{m, conn}
		cmd.SysProcAttr.Credential = &unixCredential
	})
	r := worker.must(call{Op: "flow"})
	if r.Flow != a.flow {
		t.Errorf("flow %+v, want %+v", r.Flow, a.flow)
	}
	if r.Data != "0000000000000000" {
		t.Errorf("effective capabilities %s", r.Data)
	}
}

func TestForeignSockets(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	outside := w.spawn(w.cgroup("outside"))
	dir := t.TempDir()

	use := func(t *testing.T, c *child, family, tcp, udp int) {
		t.Helper()
		before := w.refused(datapath.ForeignSocket)
		for _, dst := range []string{"203.0.113.1:443", "203.0.113.1:53"} {
			c.fails(call{Op: "connect", FD: tcp, Addr: dst}, unix.EPERM)
			c.fails(call{Op: "connect", FD: udp, Addr: dst}, unix.EPERM)
			c.fails(call{Op: "sendto", FD: udp, Addr: dst, Data: "x"}, unix.EPERM)
		}
		if n := w.refused(datapath.ForeignSocket) - before; n != 6 {
			t.Errorf("foreign_socket counted %d times, want 6", n)
		}
		w.event("foreign socket", func(e datapath.Event) bool {
			return e.Reason == datapath.ForeignSocket && e.Flow.PID == c.pid() && e.Flow.Cgroup == inode(t, group)
		})
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		name := map[int]string{unix.AF_INET: "ipv4", unix.AF_INET6: "ipv6"}[family]
		t.Run(name+" inherited", func(t *testing.T) {
			var files []*os.File
			err := within(w.inside, func() error {
				for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
					fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						return err
					}
					files = append(files, os.NewFile(uintptr(fd), "socket"))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			c := w.spawn(group, func(cmd *exec.Cmd) { cmd.ExtraFiles = files })
			use(t, c, family, 3, 4)
			c.end()
		})
		t.Run(name+" by SCM_RIGHTS", func(t *testing.T) {
			c := w.spawn(group)
			var got []int
			for i, fd := range []int{outside.tcp(family), outside.udp(family)} {
				path := filepath.Join(dir, name+strconv.Itoa(i))
				done := make(chan reply)
				go func() { done <- c.do(call{Op: "socketpath", Path: path}) }()
				outside.must(call{Op: "pass", Path: path, FD: fd})
				r := <-done
				if r.err() != nil {
					t.Fatal(r.err())
				}
				got = append(got, r.Value)
			}
			use(t, c, family, got[0], got[1])
			c.end()
		})
		t.Run(name+" by pidfd_getfd", func(t *testing.T) {
			c := w.spawn(group)
			tcp := c.must(call{Op: "pidfd_getfd", PID: int(outside.pid()), Remote: outside.tcp(family)}).Value
			udp := c.must(call{Op: "pidfd_getfd", PID: int(outside.pid()), Remote: outside.udp(family)}).Value
			use(t, c, family, tcp, udp)
			c.end()
		})
	}
	w.sealed()

	// A socket of the workload stays the workload's in other hands.
	c := w.spawn(group)
	fd := outside.must(call{Op: "pidfd_getfd", PID: int(c.pid()), Remote: c.tcp(unix.AF_INET)}).Value
	outside.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	outside.must(call{Op: "send", FD: fd, Data: "in other hands"})
	if a := w.acceptedAs("in other hands"); a.err != nil || a.flow.Cgroup != inode(t, group) {
		t.Errorf("flow %+v, %v", a.flow, a.err)
	}
	w.sealed()
}

// Sockets that were made in the cgroup before it was tagged have no owner.
func TestSocketsOlderThanTheTag(t *testing.T) {
	w := newWorld(t)
	origin := w.origin("203.0.113.1:80")
	group := w.cgroup("a")
	c := w.spawn(group)
	connected, idle, udp := c.tcp(unix.AF_INET), c.tcp(unix.AF_INET), c.udp(unix.AF_INET)
	c.must(call{Op: "connect", FD: connected, Addr: "203.0.113.1:80"})
	c.must(call{Op: "connect", FD: udp, Addr: "203.0.113.1:4000"})
	w.await("the connection", func() bool { return origin.connections.Load() == 1 })
	mptcp := c.do(call{Op: "socket", Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_MPTCP})
	if err := w.d.Attach(group); err != nil {
		t.Fatal(err)
	}
	// The far end speaks first; nothing may leave afterwards, not even the ACK.
	before := w.leaked.Load()
	origin.say("hello")
	c.must(call{Op: "recv", FD: connected})
	_ = c.do(call{Op: "send", FD: connected, Data: "secret"})
	c.fails(call{Op: "send", FD: udp, Data: "secret"}, unix.EPERM)
	c.fails(call{Op: "connect", FD: idle, Addr: "203.0.113.1:80"}, unix.EPERM)
	c.fails(call{Op: "sendto", FD: udp, Addr: "203.0.113.1:53", Data: "secret"}, unix.EPERM)
	if mptcp.Errno == 0 {
		c.fails(call{Op: "connect", FD: mptcp.Value, Addr: "203.0.113.1:80"}, unix.EPERM)
	}
	if w.refused(datapath.EgressDenied) == 0 || w.refused(datapath.ForeignSocket) == 0 {
		t.Error("not counted")
	}
	if n := w.leaked.Load() - before; n != 0 {
		t.Errorf("%d packets left after the tag: %v", n, w.leaks)
	}
	if got := origin.data(); got != "" {
		t.Errorf("the origin received %q", got)
	}
}

// A socket belongs to the namespace in which it was made, wherever its task goes.
func TestNamespaceOfTheSocketCounts(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"), func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{w.outside} })
	here := c.tcp(unix.AF_INET)
	c.must(call{Op: "setns", FD: 3})
	c.must(call{Op: "connect", FD: here, Addr: "192.0.2.1:443"})
	c.must(call{Op: "send", FD: here, Data: "made inside"})
	if a := w.acceptedAs("made inside"); a.err != nil || a.flow.Netns != w.netns {
		t.Errorf("flow %+v, %v", a.flow, a.err)
	}
	before := w.refused(datapath.NoListener)
	c.fails(call{Op: "connect", FD: c.tcp(unix.AF_INET), Addr: "203.0.113.1:80"}, unix.EPERM)
	if n := w.refused(datapath.NoListener) - before; n != 1 {
		t.Errorf("no_listener counted %d times", n)
	}
	w.sealed()
}

// Equal refusals come as one event a second with their number.
func TestRefusalsAreTold(t *testing.T) {
	w := newWorld(t)
	if err := w.d.RemoveListeners(w.netns); err != nil {
		t.Fatal(err)
	}
	c := w.spawn(w.workload("a"))
	const tries = 300
	fd := c.tcp(unix.AF_INET)
	for range tries {
		c.fails(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"}, unix.EPERM)
	}
	var events, count uint64
	w.await("all refusals told", func() bool {
		events, count = 0, 0
		for _, e := range w.events {
			if e.Reason == datapath.NoListener {
				events, count = events+1, count+e.Count
			}
		}
		return count >= tries
	})
	if count != tries || events > 10 {
		t.Errorf("%d refusals in %d events, want %d in a few", count, events, tries)
	}
	if n := w.refused(datapath.NoListener); n != tries {
		t.Errorf("counted %d, want %d", n, tries)
	}
}

// What does not fit into the buffer while nobody reads it is counted, and refused
// all the same.
func TestEventsThatFindNoRoomAreCounted(t *testing.T) {
	w := newWorld(t, func(o *datapath.Options) { o.EventBuffer = 1 }) // a page
	w.stopEvents()
	lost := func() uint64 {
		t.Helper()
		n, err := w.d.EventsLost()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := lost(); n != 0 {
		t.Fatalf("%d lost before anything happened", n)
	}
	c := w.spawn(w.workload("a"))
	before := w.refused(datapath.UDPDenied)
	const attempts = 100 // of more than 100 bytes each
	for port := range attempts {
		c.fails(call{Op: "sendto", FD: c.udp(unix.AF_INET), Addr: netip.AddrPortFrom(outside4, uint16(1000+port)).String(), Data: "x"}, unix.EPERM)
	}
	if n := w.refused(datapath.UDPDenied) - before; n != attempts {
		t.Errorf("%d refusals counted, want %d", n, attempts)
	}
	if n := lost(); n == 0 || n >= attempts {
		t.Errorf("%d of %d events lost, want those beyond one page", n, attempts)
	}
	w.sealed()
}
