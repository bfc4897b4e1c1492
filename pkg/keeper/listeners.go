package keeper

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/netns"
)

// listeners are the sockets that captured connections arrive at, in one network
// namespace. The keeper makes and holds them and never accepts: a worker can be
// replaced while connections wait in the kernel.
type listeners struct {
	cookie uint64
	tcp    []*net.TCPListener
	dns    []*net.UDPConn
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// openListeners opens TCP and DNS sockets on both loopback addresses of ns
// (nil: here). Port 0 takes any free port, the same for both families where
// that one is free. Without an IPv6 loopback there are IPv4 ones only, and
// captured IPv6 connects are refused.
func openListeners(ns *os.File, tcpPort, dnsPort uint16) (*listeners, error) {
	l := &listeners{}
	err := netns.Do(ns, func() (err error) {
		l.cookie, err = netns.Cookie()
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, addr := range []netip.Addr{loopback4, loopback6} {
		if err := l.open(ns, addr, &tcpPort, &dnsPort); err != nil {
			if addr == loopback6 && errors.Is(err, unix.EADDRNOTAVAIL) {
				continue
			}
			l.close()
			return nil, err
		}
	}
	return l, nil
}

// open adds the sockets of one address, and notes the ports that the kernel
// chose.
func (l *listeners) open(ns *os.File, addr netip.Addr, tcpPort, dnsPort *uint16) error {
	t, err := netns.ListenTCP(ns, netip.AddrPortFrom(addr, *tcpPort))
	if err != nil {
		return err
	}
	l.tcp = append(l.tcp, t)
	*tcpPort = t.Addr().(*net.TCPAddr).AddrPort().Port()
	u, err := netns.ListenUDP(ns, netip.AddrPortFrom(addr, *dnsPort))
	if err != nil {
		return err
	}
	l.dns = append(l.dns, u)
	*dnsPort = u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	return nil
}

// register marks every socket as ours and tells the kernel where to redirect to.
func (l *listeners) register(d *datapath.Datapath, probe netip.AddrPort) error {
	at := datapath.Listeners{Probe: probe}
	for _, t := range l.tcp {
		if err := mark(d, t); err != nil {
			return err
		}
		if a := addrPort(t.Addr()); a.Addr().Is4() {
			at.TCP4 = a
		} else {
			at.TCP6 = a
		}
	}
	for _, u := range l.dns {
		if err := mark(d, u); err != nil {
			return err
		}
		if a := addrPort(u.LocalAddr()); a.Addr().Is4() {
			at.DNS4 = a
		} else {
			at.DNS6 = a
		}
	}
	return d.SetListeners(l.cookie, at)
}

func mark(d *datapath.Datapath, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var merr error
	if err := raw.Control(func(fd uintptr) { merr = d.MarkListener(fd) }); err != nil {
		return err
	}
	return merr
}

// addresses gives the TCP and DNS addresses.
func (l *listeners) addresses() (tcp, dns []netip.AddrPort) {
	for _, t := range l.tcp {
		tcp = append(tcp, addrPort(t.Addr()))
	}
	for _, u := range l.dns {
		dns = append(dns, addrPort(u.LocalAddr()))
	}
	return tcp, dns
}

// files duplicates every socket for the worker, with its role.
func (l *listeners) files() ([]protocol.Role, []*os.File, error) {
	var roles []protocol.Role
	var files []*os.File
	add := func(role protocol.Role, f *os.File, err error) error {
		if err != nil {
			closeFiles(files)
			return fmt.Errorf("duplicate listener: %w", err)
		}
		roles, files = append(roles, role), append(files, f)
		return nil
	}
	for _, t := range l.tcp {
		f, err := t.File()
		if err := add(protocol.RoleTCP, f, err); err != nil {
			return nil, nil, err
		}
	}
	for _, u := range l.dns {
		f, err := u.File()
		if err := add(protocol.RoleDNS, f, err); err != nil {
			return nil, nil, err
		}
	}
	return roles, files, nil
}

func (l *listeners) close() {
	for _, t := range l.tcp {
		t.Close()
	}
	for _, u := range l.dns {
		u.Close()
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// addrPort gives a socket address without an IPv4 address in its mapped form.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
