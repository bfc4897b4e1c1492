package datapath_test

import (
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

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
