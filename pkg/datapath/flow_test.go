package datapath_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"testing"

	"sallyport/test/outside"

	"golang.org/x/sys/unix"
)

// An early close, then another workload or an untagged process on the same source
// port while the worker sleeps: each connection keeps its own origin.
func TestSourcePortReuse(t *testing.T) {
	w := newWorld(t)
	groupA, groupB := w.workload("a"), w.workload("b")
	a, b, host := w.spawn(groupA), w.spawn(groupB), w.spawn(w.cgroup("host"))
	// A listener of ours whose connections nobody accepts for now.
	var sleepy *net.TCPListener
	err := outside.In(w.inside, func() error {
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
		c.must(call{Op: "bind", FD: fd, Addr: "127.0.0.1:20404"})
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
