package datapath_test

import (
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/test/outside"
)

func TestInbound(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	if err := w.d.SetInbound([]datapath.InboundPort{{Cgroup: inode(t, group), Port: 7001}}); err != nil {
		t.Fatal(err)
	}
	server := make(map[int]int)
	for _, port := range []int{7001, 7002} {
		fd := c.tcp(unix.AF_INET6)
		c.must(call{Op: "bind", FD: fd, Addr: "[::]:" + strconv.Itoa(port)})
		c.must(call{Op: "listen", FD: fd})
		server[port] = fd
	}
	for _, tt := range []struct {
		name    string
		local   bool // from the workload's own namespace
		addr    string
		port    int
		answers bool
	}{
		{"listed, from outside", false, "203.0.113.2", 7001, true},
		{"listed, from outside, ipv6", false, "2001:db8::2", 7001, true},
		{"not listed, from outside", false, "203.0.113.2", 7002, false},
		{"not listed, from outside, ipv6", false, "2001:db8::2", 7002, false},
		{"not listed, from the namespace", true, "127.0.0.1", 7002, true},
		{"not listed, from the namespace's address", true, "203.0.113.2", 7002, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := w.outside
			if tt.local {
				ns = w.inside
			}
			wait := 300 * time.Millisecond
			if tt.answers {
				wait = 30 * time.Second
			}
			var conn net.Conn
			err := outside.In(ns, func() (err error) {
				conn, err = net.DialTimeout("tcp", net.JoinHostPort(tt.addr, strconv.Itoa(tt.port)), wait)
				return err
			})
			if !tt.answers {
				if err == nil {
					// Before Linux 6.5 a SYN-ACK does not pass egress: it is the guard's.
					// What comes after it is refused here.
					defer conn.Close()
					fd := c.must(call{Op: "accept", FD: server[tt.port]}).Value
					_ = c.do(call{Op: "send", FD: fd, Data: "secret"})
					_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
					if n, _ := conn.Read(make([]byte, 16)); n > 0 {
						t.Error("the workload answered")
					}
					c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_LINGER, Value: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
					c.must(call{Op: "close", FD: fd})
				}
				w.event("inbound_denied", func(e datapath.Event) bool {
					return e.Kind == datapath.Refused && e.Reason == datapath.InboundDenied && e.Inbound && e.Flow.Cgroup == inode(t, group)
				})
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fd := c.must(call{Op: "accept", FD: server[tt.port]}).Value
			if _, err := conn.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			c.must(call{Op: "recv", FD: fd})
			c.must(call{Op: "send", FD: fd, Data: "answer"})
			buf := make([]byte, 16)
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "answer" {
				t.Fatalf("answer %q, %v", buf[:n], err)
			}
			peer := conn.LocalAddr().(*net.TCPAddr).AddrPort()
			opened := w.event("opened", func(e datapath.Event) bool {
				return e.Kind == datapath.Opened && e.Inbound && e.Flow.Kind == datapath.Inbound && e.Flow.Dst.Port() == peer.Port() &&
					e.Flow.Cgroup == inode(t, group) && int(e.Flow.Src.Port()) == tt.port
			})
			c.must(call{Op: "close", FD: fd})
			w.event("closed", func(e datapath.Event) bool {
				return e.Kind == datapath.Closed && e.Inbound && e.Flow.ID == opened.Flow.ID &&
					e.Flow.Totals.BytesSent == 6 && e.Flow.Totals.BytesReceived == 8
			})
		})
	}
	// An accepted socket leads nowhere else: it is connected, and its peer is fixed.
	w.await("no place held", func() bool { return w.resource("bpf_places") == 0 })
}

// Connections from outside hold places too; one without sends nothing.
func TestInboundIsBounded(t *testing.T) {
	w := newWorld(t, func(o *datapath.Options) { o.Places = 4 })
	c := w.spawn(w.workload("a"))
	if err := w.d.SetInbound([]datapath.InboundPort{{Port: 7001}}); err != nil {
		t.Fatal(err)
	}
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "bind", FD: fd, Addr: "0.0.0.0:7001"})
	c.must(call{Op: "listen", FD: fd})
	for i := range 3 {
		err := outside.In(w.outside, func() error {
			conn, err := net.DialTimeout("tcp", "203.0.113.2:7001", 30*time.Second)
			if err == nil {
				w.t.Cleanup(func() { conn.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		afd := c.must(call{Op: "accept", FD: fd}).Value
		_ = c.do(call{Op: "send", FD: afd, Data: "x"})
		if want := uint64(min(i+1, 2)); w.resource("bpf_places") != want {
			t.Errorf("%d places after %d connections, want %d", w.resource("bpf_places"), i+1, want)
		}
	}
	if n := w.refused(datapath.WorkloadFull); n != 1 {
		t.Errorf("workload_full counted %d times", n)
	}
	if w.refused(datapath.EgressDenied) == 0 {
		t.Error("the connection without a place sent something")
	}
}
