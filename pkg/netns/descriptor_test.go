package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// descriptorOf gives a connection's descriptor to f.
func descriptorOf(t *testing.T, c syscall.Conn, f func(fd int)) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSocketOf: what a descriptor tells is what sock_diag finds, in the socket's
// own namespace, and which is gone once it is disconnected.
func TestSocketOf(t *testing.T) {
	ns := newNamespace(t)
	l, err := ListenTCP(ns, netip.MustParseAddrPort("127.0.0.1:7000"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var tcp, udp net.Conn
	err = Do(ns, func() (err error) {
		d := net.Dialer{}
		d.SetMultipathTCP(false)
		if tcp, err = d.Dial("tcp4", "127.0.0.1:7000"); err != nil {
			return err
		}
		udp, err = net.Dial("udp4", "127.0.0.1:7001")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	defer udp.Close()
	for _, c := range []struct {
		name   string
		conn   syscall.Conn
		remote string
		listen bool
	}{
		{"tcp", tcp.(*net.TCPConn), "127.0.0.1:7000", false},
		{"udp", udp.(*net.UDPConn), "127.0.0.1:7001", false},
		{"listener", l, "0.0.0.0:0", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			descriptorOf(t, c.conn, func(fd int) {
				s, err := SocketOf(fd)
				if err != nil {
					t.Fatal(err)
				}
				if s.Remote.String() != c.remote || s.Idle() || s.Listening() != c.listen {
					t.Errorf("%+v", s)
				}
				own, err := NamespaceOf(fd)
				if err != nil {
					t.Fatal(err)
				}
				defer own.Close()
				found, err := Find(own, s)
				if err != nil {
					t.Fatal(err)
				}
				if found.Cookie != s.Cookie || found.Inode != s.Inode || found.Remote != s.Remote || found.Cgroup == 0 {
					t.Errorf("sock_diag: %+v\nthe descriptor: %+v", found, s)
				}
				if _, err := Find(nil, s); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("found in another namespace: %v", err)
				}
				if err := Disconnect(fd); err != nil {
					t.Fatal(err)
				}
				if s, err := SocketOf(fd); err != nil || !s.Idle() {
					t.Errorf("disconnected: %+v, %v", s, err)
				}
			})
		})
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if _, err := SocketOf(pair[0]); !errors.Is(err, ErrNotInternet) {
		t.Errorf("a unix socket: %v", err)
	}
}
