package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrNoSocket says that no socket has the ends asked for.
var ErrNoSocket = errors.New("no such socket")

// Connected looks up the TCP socket with these two ends in ns (nil: here),
// whoever's it is, in whatever state. A listening socket on the local end is
// none. It returns ErrNoSocket where there is none; of one that is in TIME_WAIT,
// or in FIN_WAIT2 without a file, nobody knows the cgroup (0).
func Connected(ns *os.File, local, remote netip.AddrPort) (Socket, error) {
	var s Socket
	err := Do(ns, func() (err error) {
		want := Socket{idSport: local.Port(), idDport: remote.Port()}
		copy(want.idSource[:], local.Addr().AsSlice())
		copy(want.idDestiny[:], remote.Addr().AsSlice())
		want.Cookie = ^uint64(0) // INET_DIAG_NOCOOKIE twice
		family := uint8(unix.AF_INET6)
		if local.Addr().Is4() {
			family = unix.AF_INET
		}
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
		request.AddRawData(diagRequest(family, unix.IPPROTO_TCP, want))
		answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		if errors.Is(err, unix.ENOENT) {
			return ErrNoSocket
		}
		if err != nil {
			return err
		}
		if len(answers) != 1 {
			return fmt.Errorf("%d answers", len(answers))
		}
		if s, err = parseSocket(answers[0], unix.IPPROTO_TCP); err != nil {
			return err
		}
		// Where no connection has these ends the kernel gives the listener that
		// would take it (inet_lookup).
		if plain(s.Local) != plain(local) || plain(s.Remote) != plain(remote) {
			return ErrNoSocket
		}
		return nil
	})
	if err != nil {
		return Socket{}, fmt.Errorf("tcp socket %v → %v: %w", local, remote, err)
	}
	return s, nil
}

// Datagram lists the UDP sockets in ns (nil: here) that can have sent a datagram
// from local to remote: bound to that port at that address or at none, and
// connected to nobody else. There can be several (SO_REUSEADDR, SO_REUSEPORT).
func Datagram(ns *os.File, local, remote netip.AddrPort) ([]Socket, error) {
	var list []Socket
	err := Do(ns, func() error {
		families := []uint8{unix.AF_INET6}
		if local.Addr().Is4() {
			families = append(families, unix.AF_INET) // and IPv6 sockets with mapped addresses
		}
		for _, family := range families {
			part, err := dump(func() ([]Socket, error) { return datagrams(family, local.Port()) })
			if err != nil {
				return err
			}
			for _, s := range part {
				at, to := plain(s.Local), plain(s.Remote)
				if at.Port() != local.Port() || !at.Addr().IsUnspecified() && at.Addr() != local.Addr() {
					continue
				}
				if to.Port() != 0 && to != plain(remote) {
					continue
				}
				list = append(list, s)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("udp sockets at %v: %w", local, err)
	}
	return list, nil
}

// datagrams makes one dump of the UDP sockets that have a local port.
func datagrams(family uint8, port uint16) ([]Socket, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddRawData(diagRequest(family, unix.IPPROTO_UDP, Socket{idSport: port}))
	return execute(request, unix.IPPROTO_UDP)
}

// plain gives an end without a mapped address.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
