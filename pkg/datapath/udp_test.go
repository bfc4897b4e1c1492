package datapath_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/origin"
)

func TestDNSGoesToTheResolver(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	for _, tt := range []struct {
		name   string
		family int
		server string
		want   string // the server as the resolver learns it; server if empty
	}{
		{name: "ipv4", family: unix.AF_INET, server: "203.0.113.1:53"},
		{name: "ipv4 stub", family: unix.AF_INET, server: "127.0.0.53:53"},
		{name: "ipv6", family: unix.AF_INET6, server: "[2001:db8::1]:53"},
		{name: "mapped", family: unix.AF_INET6, server: "[::ffff:203.0.113.1]:53", want: "203.0.113.1:53"},
	} {
		for _, bind := range []bool{false, true} {
			for _, connected := range []bool{true, false} {
				name := tt.name
				if bind {
					name += " bound"
				}
				if connected {
					name += " connected"
				}
				t.Run(name, func(t *testing.T) {
					want := tt.want
					if want == "" {
						want = tt.server
					}
					fd := c.udp(tt.family)
					defer c.must(call{Op: "close", FD: fd})
					if bind {
						local := map[string]string{"ipv4": "203.0.113.2:0", "ipv4 stub": "0.0.0.0:0", "ipv6": "[2001:db8::2]:0", "mapped": "[::]:0"}
						c.must(call{Op: "bind", FD: fd, Addr: local[tt.name]})
					}
					if connected {
						c.must(call{Op: "connect", FD: fd, Addr: tt.server})
						c.must(call{Op: "send", FD: fd, Data: name})
						if got := c.must(call{Op: "getpeername", FD: fd}).Addr; got != tt.server {
							t.Errorf("getpeername: got %s, want %s", got, tt.server)
						}
					} else {
						c.must(call{Op: "sendto", FD: fd, Addr: tt.server, Data: name})
					}
					a := w.acceptedAs(name)
					if a.err != nil {
						t.Fatal(a.err)
					}
					if a.flow.Cgroup != inode(t, group) || a.flow.Dst.String() != want || a.flow.PID != c.pid() || a.flow.Netns != w.netns {
						t.Errorf("asker %+v, want %s of pid %d", a.flow, want, c.pid())
					}
					r := c.must(call{Op: "recv", FD: fd})
					if r.Data != "re:"+name || r.Addr != tt.server {
						t.Errorf("answer %q from %s, want it from %s", r.Data, r.Addr, tt.server)
					}
				})
			}
		}
	}
	w.sealed()
	w.await("no asker", func() bool { return w.resource("bpf_askers") == 0 })
}

// glibc sends A and AAAA with one sendmmsg on a connected socket; other resolvers
// name the server in each message, or ask several servers from one socket.
func TestDNSByManyCalls(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	fd := c.udp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:53"})
	if n := c.must(call{Op: "sendmmsg", FD: fd, Data: "connected", Count: 2}).Value; n != 2 {
		t.Errorf("%d of 2 messages sent", n)
	}
	fd = c.udp(unix.AF_INET)
	if n := c.must(call{Op: "sendmmsg", FD: fd, Data: "named", Count: 2, Addr: "203.0.113.1:53"}).Value; n != 2 {
		t.Errorf("%d of 2 messages sent", n)
	}
	for _, server := range []string{"203.0.113.1:53", "203.0.113.9:53"} {
		c.must(call{Op: "sendto", FD: fd, Addr: server, Data: server})
		if a := w.acceptedAs(server); a.err != nil || a.flow.Dst.String() != server {
			t.Errorf("%s: asker %+v, %v", server, a.flow, a.err)
		}
	}
	w.await("all messages", func() bool {
		n := 0
		for _, a := range w.accepted {
			if a.err == nil {
				n++
			}
		}
		return n == 6
	})
	w.sealed()
}

// A UDP socket changes its target at will; each datagram is judged by itself.
func TestUDPSocketChangesItsTarget(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	fd := c.udp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:53"})
	c.must(call{Op: "send", FD: fd, Data: "one"})
	w.acceptedAs("one")
	c.must(call{Op: "recv", FD: fd})
	// To another target while connected, and connected to it.
	c.fails(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:443", Data: "x"}, unix.EPERM)
	c.must(call{Op: "disconnect", FD: fd})
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	if got := c.must(call{Op: "getpeername", FD: fd}).Addr; got != "203.0.113.1:443" {
		t.Errorf("getpeername: %s", got)
	}
	c.fails(call{Op: "send", FD: fd, Data: "x"}, unix.EPERM)
	// Dissolved, it has another port; the old note must go.
	c.must(call{Op: "disconnect", FD: fd})
	c.must(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:53", Data: "two"})
	if a := w.acceptedAs("two"); a.err != nil {
		t.Error(a.err)
	}
	if n := w.resource("bpf_askers"); n != 1 {
		t.Errorf("%d askers for one socket", n)
	}
	w.sealed()
}

func TestAskerIsNotBelievedForever(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	fd := c.udp(unix.AF_INET)
	c.must(call{Op: "bind", FD: fd, Addr: "127.0.0.1:21414"})
	c.must(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:53", Data: "x"})
	if a := w.acceptedAs("x"); a.err != nil {
		t.Fatal(a.err)
	}
	src := netip.MustParseAddrPort("127.0.0.1:21414")
	for _, tt := range []struct {
		name  string
		netns uint64
		src   netip.AddrPort
	}{
		{"another namespace", w.netns + 1, src},
		{"another port", w.netns, netip.AddrPortFrom(src.Addr(), 21415)},
		{"another address", w.netns, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), 21414)},
	} {
		if f, err := w.reader.Asker(tt.netns, tt.src); err != origin.ErrNoFlow {
			t.Errorf("%s: %+v, %v; want ErrNoFlow", tt.name, f, err)
		}
	}
	c.must(call{Op: "close", FD: fd})
	if f, err := w.reader.Asker(w.netns, src); err != origin.ErrNoFlow {
		t.Errorf("after close: %+v, %v; want ErrNoFlow", f, err)
	}
}

func TestOtherUDPIsRefused(t *testing.T) {
	w := newWorld(t)
	o := w.origin("203.0.113.1:443")
	c := w.spawn(w.workload("a"))
	for _, tt := range []struct {
		name   string
		family int
		dst    string
	}{
		{"ipv4", unix.AF_INET, "203.0.113.1:443"},
		{"ipv6", unix.AF_INET6, "[2001:db8::1]:443"},
		{"mapped", unix.AF_INET6, "[::ffff:203.0.113.1]:443"},
		{"loopback", unix.AF_INET, "127.0.0.1:9"},
		{"unspecified", unix.AF_INET, "0.0.0.0:9"},
		{"multicast", unix.AF_INET, "224.0.0.251:5353"},
		{"broadcast", unix.AF_INET, "255.255.255.255:67"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := w.refused(datapath.UDPDenied)
			fd := c.udp(tt.family)
			defer c.must(call{Op: "close", FD: fd})
			c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_BROADCAST, Value: []byte{1, 0, 0, 0}})
			c.fails(call{Op: "sendto", FD: fd, Addr: tt.dst, Data: "x"}, unix.EPERM)
			// connect tells the source address and sends nothing.
			c.must(call{Op: "connect", FD: fd, Addr: tt.dst})
			if tt.name == "ipv4" {
				if got := c.must(call{Op: "getsockname", FD: fd}).Addr; netip.MustParseAddrPort(got).Addr() != inside4 {
					t.Errorf("source address %s, want %s", got, inside4)
				}
			}
			c.fails(call{Op: "send", FD: fd, Data: "x"}, unix.EPERM)
			if r := c.do(call{Op: "sendmmsg", FD: fd, Data: "x", Count: 2}); unix.Errno(r.Errno) != unix.EPERM {
				t.Errorf("sendmmsg: %v", r.err())
			}
			if n := w.refused(datapath.UDPDenied) - before; n != 3 {
				t.Errorf("udp_denied counted %d times, want 3", n)
			}
		})
	}
	if got := o.data(); got != "" {
		t.Errorf("the origin received %q", got)
	}
	w.sealed()
}

func TestAskersFull(t *testing.T) {
	w := newWorld(t, func(o *datapath.Options) { o.Places = 4 })
	a, b, c := w.spawn(w.workload("a")), w.spawn(w.workload("b")), w.spawn(w.workload("c"))
	ask := func(c *child) (int, unix.Errno) {
		fd := c.udp(unix.AF_INET)
		return fd, unix.Errno(c.do(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:53", Data: "x"}).Errno)
	}
	var fds []int
	for range 2 {
		fd, errno := ask(a)
		if errno != 0 {
			t.Fatal(errno)
		}
		fds = append(fds, fd)
	}
	if _, errno := ask(a); errno != unix.EPERM || w.refused(datapath.WorkloadFull) != 1 {
		t.Errorf("third asker of a workload: %v, workload_full %d", errno, w.refused(datapath.WorkloadFull))
	}
	for range 2 {
		if _, errno := ask(b); errno != 0 {
			t.Fatal(errno)
		}
	}
	if _, errno := ask(c); errno != unix.EPERM || w.refused(datapath.AskerFull) != 1 {
		t.Errorf("asker without a place: %v, asker_full %d", errno, w.refused(datapath.AskerFull))
	}
	a.must(call{Op: "close", FD: fds[0]})
	if _, errno := ask(c); errno != 0 {
		t.Errorf("after a close: %v", errno)
	}
	w.sealed()
}
