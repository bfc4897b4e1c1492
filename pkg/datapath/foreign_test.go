package datapath_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/test/outside"
)

func TestForeignSockets(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	elsewhere := w.spawn(w.cgroup("outside"))
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
			err := outside.In(w.inside, func() error {
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
			for i, fd := range []int{elsewhere.tcp(family), elsewhere.udp(family)} {
				path := filepath.Join(dir, name+strconv.Itoa(i))
				done := make(chan reply)
				go func() { done <- c.do(call{Op: "socketpath", Path: path}) }()
				elsewhere.must(call{Op: "pass", Path: path, FD: fd})
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
			tcp := c.must(call{Op: "pidfd_getfd", PID: int(elsewhere.pid()), Remote: elsewhere.tcp(family)}).Value
			udp := c.must(call{Op: "pidfd_getfd", PID: int(elsewhere.pid()), Remote: elsewhere.udp(family)}).Value
			use(t, c, family, tcp, udp)
			c.end()
		})
	}
	w.sealed()

	// A socket of the workload stays the workload's in other hands.
	c := w.spawn(group)
	fd := elsewhere.must(call{Op: "pidfd_getfd", PID: int(c.pid()), Remote: c.tcp(unix.AF_INET)}).Value
	elsewhere.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	elsewhere.must(call{Op: "send", FD: fd, Data: "in other hands"})
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
	_ = w.left()
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
	w.sealed()
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
