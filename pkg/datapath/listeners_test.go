package datapath_test

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/test/outside"
)

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

// openFast makes Fast Open work without a cookie, which no server here gives: a SYN is
// put off, and has data (ip-sysctl, tcp_fastopen: 1 as a client, 4 without a cookie).
func (w *world) openFast() {
	w.t.Helper()
	err := outside.In(w.inside, func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("5"), 0) })
	if err != nil {
		w.t.Fatal(err)
	}
}

// A SYN that is sent after the listener was replaced stays here.
func TestListenerReplacedBeforeSYN(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	l := w.listeners()
	w.openFast()
	fd := c.tcp(unix.AF_INET)
	c.hurry(fd)
	c.must(call{Op: "setsockopt", FD: fd, Level: unix.IPPROTO_TCP, Option: unix.TCP_FASTOPEN_CONNECT, Value: []byte{1, 0, 0, 0}})
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	w.tcp4.Close()
	fake := w.spawn(w.cgroup("fake"))
	ffd := fake.tcp(unix.AF_INET)
	fake.must(call{Op: "setsockopt", FD: ffd, Level: unix.SOL_SOCKET, Option: unix.SO_REUSEADDR, Value: []byte{1, 0, 0, 0}})
	fake.must(call{Op: "bind", FD: ffd, Addr: l.TCP4.String()})
	fake.must(call{Op: "listen", FD: ffd})
	before := w.refused(datapath.ForeignListener)
	_ = c.do(call{Op: "send", FD: fd, Data: "for sallyport only"}) // what is in the SYN counts as sent
	if w.refused(datapath.ForeignListener) == before {
		t.Error("no SYN was refused: connect has sent it")
	}
	fake.must(call{Op: "setsockopt", FD: ffd, Level: unix.SOL_SOCKET, Option: unix.SO_RCVTIMEO,
		Value: []byte{0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x0d, 3, 0, 0, 0, 0, 0}}) // 200 ms
	fake.fails(call{Op: "accept", FD: ffd}, unix.EAGAIN)
	w.sealed()
}
