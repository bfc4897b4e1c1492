package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/store"
	"sallyport/pkg/netns"
)

// listeners are the sockets that captured connections arrive at, in one network
// namespace. The keeper makes and holds them and never accepts: a worker can be
// replaced while connections wait in the kernel.
type listeners struct {
	cookie uint64
	// store keeps the sockets beyond this process.
	store *store.Store

	mu   sync.Mutex
	held []heldSocket
}

// A heldSocket is a descriptor that Go's poller does not know: it would wake the
// keeper for each connection that a worker is about to accept.
type heldSocket struct {
	fd   int
	role protocol.Role
	addr netip.AddrPort
}

// storeName is the name of a socket with the service manager: its role, family
// and network namespace.
func storeName(role protocol.Role, addr netip.Addr, cookie uint64) string {
	family := "6"
	if addr.Is4() {
		family = "4"
	}
	return string(role) + family + "." + strconv.FormatUint(cookie, 10)
}

// hold takes a socket over.
func hold(c interface {
	syscall.Conn
	io.Closer
}, role protocol.Role, addr net.Addr) (heldSocket, error) {
	defer c.Close()
	h := heldSocket{role: role, addr: addrPort(addr)}
	raw, err := c.SyscallConn()
	if err != nil {
		return h, err
	}
	var derr error
	if err := raw.Control(func(fd uintptr) { h.fd, derr = duplicate(int(fd)) }); err != nil {
		return h, err
	}
	return h, derr
}

func duplicate(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// openListeners opens TCP and DNS sockets on both loopback addresses of ns
// (nil: here). Port 0 takes any free port, the same for both families where
// that one is free. Without an IPv6 loopback there are IPv4 ones only, and
// captured IPv6 connects are refused.
//
// Those that an earlier process left in the store are taken where they are what
// is wanted: connections may wait in them. All are put there; a nil store keeps
// none.
func openListeners(st *store.Store, ns *os.File, tcpPort, dnsPort uint16) (*listeners, error) {
	l := &listeners{store: st}
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
	err := l.add(protocol.RoleTCP, addr, tcpPort, func(at netip.AddrPort) (heldSocket, error) {
		t, err := netns.ListenTCP(ns, at)
		if err != nil {
			return heldSocket{}, err
		}
		return hold(t, protocol.RoleTCP, t.Addr())
	})
	if err != nil {
		return err
	}
	return l.add(protocol.RoleDNS, addr, dnsPort, func(at netip.AddrPort) (heldSocket, error) {
		u, err := netns.ListenUDP(ns, at)
		if err != nil {
			return heldSocket{}, err
		}
		return hold(u, protocol.RoleDNS, u.LocalAddr())
	})
}

// add takes one socket from the store, or makes it and puts it there.
func (l *listeners) add(role protocol.Role, addr netip.Addr, port *uint16, listen func(netip.AddrPort) (heldSocket, error)) error {
	name := storeName(role, addr, l.cookie)
	want := netip.AddrPortFrom(addr, *port)
	h, ok := adopt(l.store, name, role, want)
	if !ok {
		var err error
		if h, err = listen(want); err != nil {
			return err
		}
		if err := l.store.Put(name, h.fd); err != nil {
			_ = unix.Close(h.fd)
			return err
		}
	}
	l.held = append(l.held, h)
	*port = h.addr.Port()
	return nil
}

// register marks every socket as ours and tells the kernel where to redirect to.
func (l *listeners) register(d *datapath.Datapath, probe netip.AddrPort) error {
	at := datapath.Listeners{Probe: probe}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held {
		if err := d.MarkListener(uintptr(h.fd)); err != nil {
			return err
		}
		switch is4 := h.addr.Addr().Is4(); {
		case h.role == protocol.RoleTCP && is4:
			at.TCP4 = h.addr
		case h.role == protocol.RoleTCP:
			at.TCP6 = h.addr
		case is4:
			at.DNS4 = h.addr
		default:
			at.DNS6 = h.addr
		}
	}
	return d.SetListeners(l.cookie, at)
}

// mark marks a socket that the keeper serves itself.
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
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held {
		if h.role == protocol.RoleTCP {
			tcp = append(tcp, h.addr)
		} else {
			dns = append(dns, h.addr)
		}
	}
	return tcp, dns
}

// files duplicates every socket for the worker, with its role.
func (l *listeners) files() ([]protocol.Role, []*os.File, error) {
	var roles []protocol.Role
	var files []*os.File
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held {
		fd, err := duplicate(h.fd)
		if err != nil {
			closeFiles(files)
			return nil, nil, fmt.Errorf("duplicate listener: %w", err)
		}
		roles, files = append(roles, h.role), append(files, os.NewFile(uintptr(fd), h.addr.String()))
	}
	return roles, files, nil
}

// drop closes the sockets for good: the store forgets them, too, and whoever
// waits in them is refused.
func (l *listeners) drop() error {
	var errs []error
	l.mu.Lock()
	for _, h := range l.held {
		errs = append(errs, l.store.Drop(storeName(h.role, h.addr.Addr(), l.cookie)))
	}
	l.mu.Unlock()
	l.close()
	return errors.Join(errs...)
}

// close gives up this process's descriptors.
func (l *listeners) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held {
		_ = unix.Close(h.fd) // nothing is written to them
	}
	l.held = nil
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
