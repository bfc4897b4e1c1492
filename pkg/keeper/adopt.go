package keeper

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/store"
)

// adopt takes a listener of an earlier process from the store, if it is bound to
// the address that is wanted (any port where that is 0) and of its kind. One that
// is not is dropped: the configuration has changed.
func adopt(st *store.Store, name string, role protocol.Role, want netip.AddrPort) (heldSocket, bool) {
	f := st.Take(name)
	if f == nil {
		return heldSocket{}, false
	}
	defer f.Close()
	raw, err := f.SyscallConn() // Fd would make the socket blocking, for others too
	if err != nil {
		return heldSocket{}, false
	}
	fd := -1
	var addr netip.AddrPort
	cerr := raw.Control(func(n uintptr) {
		if addr, err = boundTo(int(n), role); err == nil {
			fd, err = duplicate(int(n))
		}
	})
	if err == nil {
		err = cerr
	}
	if err == nil && (addr.Addr() != want.Addr() || want.Port() != 0 && addr.Port() != want.Port()) {
		err = fmt.Errorf("bound to %s", addr)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		_ = st.Drop(name) // the service manager forgets it with the service at the latest
		return heldSocket{}, false
	}
	return heldSocket{fd: fd, role: role, addr: addr}, true
}

// boundTo gives the local address of a listening TCP socket, or of a UDP socket.
func boundTo(fd int, role protocol.Role) (netip.AddrPort, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return netip.AddrPort{}, err
	}
	want := unix.SOCK_STREAM
	if role == protocol.RoleDNS {
		want = unix.SOCK_DGRAM
	}
	if kind != want {
		return netip.AddrPort{}, fmt.Errorf("socket type %d", kind)
	}
	if want == unix.SOCK_STREAM {
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			return netip.AddrPort{}, fmt.Errorf("does not listen: %w", err)
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	default:
		return netip.AddrPort{}, fmt.Errorf("family %T", sa)
	}
}
