package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Dial opens a connection from inside ns (nil: here) to an address. network is
// "tcp" or "udp"; a connected datagram socket takes nothing from others.
func Dial(ctx context.Context, ns *os.File, network string, addr netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{}
	dialer.SetMultipathTCP(false)
	var conn net.Conn
	err := Do(ns, func() (err error) {
		// One address: the dialer opens the socket in this goroutine.
		conn, err = dialer.DialContext(ctx, network+family(addr.Addr()), addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s %v: %w", network, addr, err)
	}
	return conn, nil
}
