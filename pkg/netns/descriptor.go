package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Constants of linux/tcp.h, tcp_states.h and asm-generic/socket.h that
// golang.org/x/sys/unix lacks.
const (
	tcpEstablished  = 1  // TCP_ESTABLISHED
	tcpClose        = 7  // TCP_CLOSE
	soBindToIfindex = 62 // SO_BINDTOIFINDEX
)

// ErrNotInternet says that a descriptor is not an internet socket.
var ErrNotInternet = errors.New("not an internet socket")

// SocketOf describes the internet socket behind a descriptor of this process, as
// sock_diag would, but for the cgroup, which only Find tells. A socket without an
// address or a peer has the unspecified one; the state of what is not TCP is 7
// without a peer and 1 with one.
func SocketOf(fd int) (Socket, error) {
	var s Socket
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return s, os.NewSyscallError("getsockopt", err)
	}
	if domain != unix.AF_INET && domain != unix.AF_INET6 {
		return s, ErrNotInternet
	}
	s.Family = uint8(domain)
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return s, os.NewSyscallError("getsockopt", err)
	}
	// MPTCP, 262, has no place in a request of sock_diag; its subflows are TCP.
	if s.Protocol = uint8(protocol); protocol == unix.IPPROTO_MPTCP {
		s.Protocol = unix.IPPROTO_TCP
	}
	if s.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return s, os.NewSyscallError("getsockopt", err)
	}
	// Without the option (before Linux 5.0) the kernel finds unbound sockets.
	if bound, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soBindToIfindex); err == nil {
		s.Interface = uint32(bound)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return s, os.NewSyscallError("fstat", err)
	}
	s.Inode, s.UID = uint32(st.Ino), st.Uid
	local, _ := unix.Getsockname(fd)
	peer, err := unix.Getpeername(fd)
	s.Local, s.idSource = diagEnd(s.Family, local)
	s.Remote, s.idDestiny = diagEnd(s.Family, peer)
	s.idSport, s.idDport = s.Local.Port(), s.Remote.Port()
	if s.State = tcpClose; err == nil {
		s.State = tcpEstablished
	}
	if s.Protocol == unix.IPPROTO_TCP {
		// The first byte of struct tcp_info; all of it, so that MPTCP answers too.
		var info [256]byte
		size := uint32(len(info))
		if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO, uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
			return s, os.NewSyscallError("getsockopt", e)
		}
		s.State = info[0]
	}
	return s, nil
}

// Idle reports whether the socket has no connection and is not about to get one:
// it can send nothing without a call of connect or a destination.
func (s Socket) Idle() bool { return s.State == tcpClose }

// Listening reports whether it is a TCP listener.
func (s Socket) Listening() bool { return s.Protocol == unix.IPPROTO_TCP && s.State == tcpListen }

// diagEnd gives an address as a Socket has it, and as the kernel names it.
func diagEnd(family uint8, a unix.Sockaddr) (at netip.AddrPort, id [16]byte) {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		copy(id[:], a.Addr[:])
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), id
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), a.Addr
	}
	return netip.AddrPortFrom(diagAddr(family, id), 0), id
}

// NamespaceOf opens the network namespace of the socket behind a descriptor,
// which need not be that of any process. It needs CAP_NET_ADMIN there.
func NamespaceOf(fd int) (*os.File, error) {
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return nil, fmt.Errorf("network namespace of a socket: %w", os.NewSyscallError("ioctl", err))
	}
	return os.NewFile(uintptr(ns), "net"), nil
}

// Find asks sock_diag for one socket of ns (nil: here) by its ends and cookie, and
// gives what it tells beyond s: the cgroup that made it. It is fs.ErrNotExist
// (ENOENT) where the kernel has none such: it is closed, was never bound, or is one
// of several listeners of a port.
func Find(ns *os.File, s Socket) (Socket, error) {
	var found Socket
	asked := s
	if s.Protocol != unix.IPPROTO_TCP {
		// "src and dst are swapped for historical reasons" (udp_dump_one).
		asked.idSource, asked.idDestiny = s.idDestiny, s.idSource
		asked.idSport, asked.idDport = s.idDport, s.idSport
	}
	err := Do(ns, func() error {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
		request.AddRawData(diagRequest(s.Family, s.Protocol, asked))
		answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		if err != nil {
			return err
		}
		if len(answers) != 1 {
			return unix.ENOENT
		}
		found, err = parseSocket(answers[0], s.Protocol)
		return err
	})
	if err != nil {
		return Socket{}, fmt.Errorf("find socket %v: %w", s, err)
	}
	return found, nil
}

// AllSockets lists the internet sockets of ns (nil: here) that have an address,
// whoever made them. On a host with many it costs about a microsecond each.
func AllSockets(ns *os.File) ([]Socket, error) {
	list, err := list(ns, func(family, protocol uint8) ([]Socket, error) {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddRawData(diagRequest(family, protocol, Socket{}))
		return execute(request, protocol)
	})
	if err != nil {
		return nil, fmt.Errorf("sockets: %w", err)
	}
	return list, nil
}

// Disconnect ends what the socket behind a descriptor is connected to, for every
// process that has it: a TCP peer gets a reset, a listener closes. It needs no
// capability and no CONFIG_INET_DIAG_DESTROY, but the socket itself stays usable.
func Disconnect(fd int) error {
	s, err := SocketOf(fd)
	if err != nil {
		return err
	}
	if s.Listening() {
		return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_RD))
	}
	var to [16]byte // struct sockaddr
	binary.NativeEndian.PutUint16(to[:], unix.AF_UNSPEC)
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to[0])), uintptr(len(to))); e != 0 {
		return os.NewSyscallError("connect", e)
	}
	return nil
}
