package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/origin"
)

func TestConnectIsCaptured(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	for _, tt := range []struct {
		name   string
		family int
		dst    string
		peer   string // as getpeername tells it; dst if empty
		want   string // as the worker sees it; dst if empty
	}{
		{name: "ipv4", family: unix.AF_INET, dst: "203.0.113.1:443"},
		{name: "ipv4 port 1", family: unix.AF_INET, dst: "203.0.113.1:1"},
		{name: "ipv4 port 65535", family: unix.AF_INET, dst: "203.0.113.1:65535"},
		{name: "ipv4 dns over tcp", family: unix.AF_INET, dst: "203.0.113.1:53"},
		{name: "ipv4 without a route", family: unix.AF_INET, dst: "192.0.2.1:80"},
		{name: "ipv4 loopback", family: unix.AF_INET, dst: "127.0.0.1:80"},
		{name: "ipv4 unspecified", family: unix.AF_INET, dst: "0.0.0.0:80"},
		{name: "ipv6", family: unix.AF_INET6, dst: "[2001:db8::1]:443"},
		{name: "ipv6 loopback", family: unix.AF_INET6, dst: "[::1]:80"},
		{name: "ipv6 unspecified", family: unix.AF_INET6, dst: "[::]:80"},
		{name: "ipv6 link-local with a zone", family: unix.AF_INET6, dst: "[fe80::1%cable0]:80",
			peer: "[fe80::1]:80", want: "[fe80::1]:80"},
		{name: "mapped", family: unix.AF_INET6, dst: "[::ffff:203.0.113.1]:443", want: "203.0.113.1:443"},
		{name: "mapped unspecified", family: unix.AF_INET6, dst: "[::ffff:0.0.0.0]:80", want: "0.0.0.0:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := c.tcp(tt.family)
			defer c.must(call{Op: "close", FD: fd})
			c.must(call{Op: "connect", FD: fd, Addr: tt.dst})
			c.must(call{Op: "send", FD: fd, Data: tt.name})
			a := w.acceptedAs(tt.name)
			if a.err != nil {
				t.Fatal(a.err)
			}
			peer, want := tt.peer, tt.want
			if peer == "" {
				peer = tt.dst
			}
			if want == "" {
				want = tt.dst
			}
			if got := c.must(call{Op: "getpeername", FD: fd}).Addr; got != peer {
				t.Errorf("getpeername: got %s, want %s", got, peer)
			}
			src := netip.MustParseAddrPort(c.must(call{Op: "getsockname", FD: fd}).Addr)
			id := inode(t, group)
			got := a.flow
			if got.ID == 0 {
				t.Error("the flow has no id")
			}
			got.ID = 0
			if diff := cmp.Diff(origin.Flow{
				Dst:      netip.MustParseAddrPort(want),
				Src:      netip.AddrPortFrom(src.Addr().Unmap(), src.Port()),
				Cgroup:   id,
				Workload: id,
				Netns:    w.netns,
				PID:      c.pid(),
				UID:      0,
			}, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("flow (-want +got):\n%s", diff)
			}
			if got := c.must(call{Op: "recv", FD: fd}).Data; got != tt.name {
				t.Errorf("answer %q", got)
			}
		})
	}
	w.sealed()
}

// Fast Open sends data from sendto, without a connect before it.
func TestFastOpenIsCaptured(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	for _, cookie := range []string{"asks for a cookie", "without a cookie"} {
		if cookie == "without a cookie" {
			w.openFast()
		}
		fastOpen(t, w, c, cookie)
	}
	w.sealed()
}

func fastOpen(t *testing.T, w *world, c *child, cookie string) {
	for _, tt := range []struct {
		name   string
		family int
		dst    string
	}{
		{"ipv4", unix.AF_INET, "203.0.113.1:443"},
		{"ipv6", unix.AF_INET6, "[2001:db8::1]:443"},
		{"mapped", unix.AF_INET6, "[::ffff:203.0.113.1]:443"},
	} {
		t.Run(tt.name+" "+cookie, func(t *testing.T) {
			data := tt.name + " " + cookie
			fd := c.tcp(tt.family)
			c.must(call{Op: "sendto", FD: fd, Addr: tt.dst, Data: data, Flags: unix.MSG_FASTOPEN})
			if a := w.acceptedAs(data); a.err != nil || a.flow.Dst.Port() != 443 {
				t.Errorf("flow %+v, %v", a.flow, a.err)
			}
			c.must(call{Op: "close", FD: fd})

			// TCP_FASTOPEN_CONNECT puts the SYN off until the first write.
			data += " deferred"
			fd = c.tcp(tt.family)
			c.must(call{Op: "setsockopt", FD: fd, Level: unix.IPPROTO_TCP, Option: unix.TCP_FASTOPEN_CONNECT, Value: []byte{1, 0, 0, 0}})
			c.must(call{Op: "connect", FD: fd, Addr: tt.dst})
			c.must(call{Op: "send", FD: fd, Data: data})
			if a := w.acceptedAs(data); a.err != nil || a.flow.Dst.Port() != 443 {
				t.Errorf("deferred: flow %+v, %v", a.flow, a.err)
			}
			c.must(call{Op: "close", FD: fd})
		})
	}
}

func TestBoundAndReconnectedSocketsAreCaptured(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	for _, tt := range []struct {
		name   string
		family int
		bind   string
		dst    string
	}{
		{"ipv4", unix.AF_INET, "203.0.113.2:0", "203.0.113.1:80"},
		{"ipv6", unix.AF_INET6, "[2001:db8::2]:0", "[2001:db8::1]:80"},
		{"mapped", unix.AF_INET6, "[::ffff:203.0.113.2]:0", "[::ffff:203.0.113.1]:80"},
		{"dual stack", unix.AF_INET6, "[::]:0", "[::ffff:203.0.113.1]:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := c.tcp(tt.family)
			defer c.must(call{Op: "close", FD: fd})
			c.must(call{Op: "bind", FD: fd, Addr: tt.bind})
			c.must(call{Op: "connect", FD: fd, Addr: tt.dst})
			c.must(call{Op: "send", FD: fd, Data: "bound " + tt.name})
			first := w.acceptedAs("bound " + tt.name)
			if first.err != nil {
				t.Fatal(first.err)
			}

			// connect(AF_UNSPEC) dissolves the association; the next one is decided anew.
			c.must(call{Op: "disconnect", FD: fd})
			other := netip.AddrPortFrom(netip.MustParseAddrPort(tt.dst).Addr(), 8080)
			c.must(call{Op: "connect", FD: fd, Addr: other.String()})
			c.must(call{Op: "send", FD: fd, Data: "again " + tt.name})
			second := w.acceptedAs("again " + tt.name)
			if second.err != nil || second.flow.Dst.Port() != 8080 {
				t.Errorf("second flow %+v, %v", second.flow, second.err)
			}
			if got := c.must(call{Op: "getpeername", FD: fd}).Addr; got != other.String() {
				t.Errorf("getpeername after the second connect: %s, want %s", got, other)
			}
		})
	}
	w.sealed()
	w.await("no place in use", func() bool { return w.resource("bpf_places") == 0 && w.resource("bpf_handoffs") == 0 })
}

func TestConnectInProgress(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	fd := c.must(call{Op: "socket", Family: unix.AF_INET, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}).Value
	if errno := unix.Errno(c.do(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"}).Errno); errno != unix.EINPROGRESS && errno != 0 {
		t.Fatal(errno)
	}
	// A second connect with another target must not change where this one goes.
	_ = c.do(call{Op: "connect", FD: fd, Addr: "203.0.113.1:22"})
	for r := c.do(call{Op: "send", FD: fd, Data: "in progress"}); r.Value == 0; r = c.do(call{Op: "send", FD: fd, Data: "in progress"}) {
		if unix.Errno(r.Errno) != unix.EAGAIN {
			t.Fatal(r.err())
		}
	}
	if a := w.acceptedAs("in progress"); a.err != nil || a.flow.Dst.Port() != 443 {
		t.Errorf("flow %+v, %v", a.flow, a.err)
	}
	w.sealed()
}

// The cgroup that made the socket counts, also a child of the tagged one.
func TestChildCgroupsBelongToTheTag(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	sub := w.cgroup("a/sub")
	slice := w.cgroup("slice")
	if err := w.d.AttachSlice(slice); err != nil {
		t.Fatal(err)
	}
	unit := w.cgroup("slice/unit")
	inner := w.cgroup("slice/unit/inner")
	for _, tt := range []struct {
		dir, workload string
	}{{group, group}, {sub, group}, {slice, slice}, {unit, unit}, {inner, unit}} {
		c := w.spawn(tt.dir)
		fd := c.tcp(unix.AF_INET)
		c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:80"})
		c.must(call{Op: "send", FD: fd, Data: tt.dir})
		a := w.acceptedAs(tt.dir)
		if a.err != nil || a.flow.Cgroup != inode(t, tt.dir) || a.flow.Workload != inode(t, tt.workload) {
			t.Errorf("%s: flow %+v, %v; want cgroup %d of workload %d", tt.dir, a.flow, a.err, inode(t, tt.dir), inode(t, tt.workload))
		}
		c.end()
	}
}

// An untagged process of the host that finds our port has no flow.
func TestUntaggedConnectionHasNoFlow(t *testing.T) {
	w := newWorld(t)
	w.workload("a")
	c := w.spawn(w.cgroup("untagged"))
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: w.listeners().TCP4.String()})
	c.must(call{Op: "send", FD: fd, Data: "untagged"})
	if a := w.acceptedAs("untagged"); a.err != origin.ErrNoFlow {
		t.Errorf("flow %+v, %v; want ErrNoFlow", a.flow, a.err)
	}
	// Nor does anything change for it elsewhere.
	fd = c.tcp(unix.AF_INET)
	c.fails(call{Op: "connect", FD: fd, Addr: "203.0.113.1:9"}, unix.ECONNREFUSED)
	// And the wire shows it: it would show a leak.
	if len(w.left()) == 0 {
		t.Error("the wire shows no packet of it")
	}
}

func TestFlowsAndFinalTotals(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	for _, tt := range []struct {
		name string
		end  func(fd int)
	}{
		{"client closes", func(fd int) { c.must(call{Op: "close", FD: fd}) }},
		{"half close first", func(fd int) {
			c.must(call{Op: "shutdown", FD: fd})
			c.must(call{Op: "recv", FD: fd}) // end of file
			c.must(call{Op: "close", FD: fd})
		}},
		{"reset", func(fd int) {
			c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_LINGER, Value: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
			c.must(call{Op: "close", FD: fd})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := c.tcp(unix.AF_INET)
			c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
			c.must(call{Op: "send", FD: fd, Data: tt.name})
			if got := c.must(call{Op: "recv", FD: fd}).Data; got != tt.name {
				t.Fatalf("answer %q", got)
			}
			flows, err := w.d.Flows()
			if err != nil {
				t.Fatal(err)
			}
			if len(flows) != 1 || !flows[0].Established || flows[0].Kind != datapath.Captured ||
				flows[0].Dst != netip.MustParseAddrPort("203.0.113.1:443") || flows[0].Cgroup != inode(t, group) ||
				flows[0].PID != c.pid() || flows[0].Opened.IsZero() {
				t.Errorf("flows %+v", flows)
			}
			id := w.acceptedAs(tt.name).flow.ID
			tt.end(fd)
			e := w.event("closed", func(e datapath.Event) bool { return e.Kind == datapath.Closed && e.Flow.ID == id })
			want := uint64(len(tt.name))
			if e.Flow.Totals.BytesSent != want || e.Flow.Totals.BytesReceived != want {
				t.Errorf("totals %+v, want %d bytes both ways", e.Flow.Totals, want)
			}
			if e.Flow.Totals.SegmentsOut == 0 || e.Flow.Totals.SegmentsIn == 0 || e.Flow.Totals.RTT == 0 {
				t.Errorf("totals %+v lack segments or round trip", e.Flow.Totals)
			}
			// The end is told a moment before the place is free.
			w.await("no place in use after the end", func() bool { return w.resource("bpf_places") == 0 })
		})
	}
}
