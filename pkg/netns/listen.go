package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenTCP opens a listener at addr inside ns (nil: here). Port 0 takes any
// free port.
//
// It is plain TCP: Go makes MPTCP listeners unless told not to, and a mark put
// into such a socket's BPF storage is not found by bpf_sk_lookup_tcp. It never
// has SO_REUSEPORT: with it any process of the same uid could take a share of
// the captured connections. An IPv6 listener takes no mapped IPv4 addresses.
func ListenTCP(ns *os.File, addr netip.AddrPort) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: alone}
	config.SetMultipathTCP(false)
	var listener *net.TCPListener
	err := Do(ns, func() error {
		l, err := config.Listen(context.Background(), "tcp"+family(addr.Addr()), addr.String())
		if err != nil {
			return err
		}
		listener = l.(*net.TCPListener)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on TCP %v: %w", addr, err)
	}
	return listener, nil
}

// ListenUDP opens a datagram socket at addr inside ns (nil: here), without
// SO_REUSEPORT and SO_REUSEADDR. Port 0 takes any free port.
func ListenUDP(ns *os.File, addr netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: alone}
	var conn *net.UDPConn
	err := Do(ns, func() error {
		c, err := config.ListenPacket(context.Background(), "udp"+family(addr.Addr()), addr.String())
		if err != nil {
			return err
		}
		conn = c.(*net.UDPConn)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on UDP %v: %w", addr, err)
	}
	return conn, nil
}

// family is the suffix of net's network names. A mapped address is an IPv6
// address here and fails to bind because of IPV6_V6ONLY: nobody should listen on
// one.
func family(addr netip.Addr) string {
	if addr.Is4() {
		return "4"
	}
	return "6"
}

// alone demands that nobody can bind the same address and port beside us. The
// kernel shares a port only when both sockets ask for it, so what Go may one day
// set by default must not be set here.
func alone(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
	})
	if controlErr != nil {
		return controlErr
	}
	return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
}
