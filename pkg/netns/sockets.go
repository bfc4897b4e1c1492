package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Socket is an internet socket as sock_diag(7) lists it.
type Socket struct {
	Protocol            uint8 // unix.IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE or IPPROTO_RAW
	Family              uint8 // unix.AF_INET or AF_INET6
	State               uint8 // TCP state, linux/tcp.h: 1 established, 10 listening
	Local, Remote       netip.AddrPort
	Interface           uint32 // bound to it; 0 for none
	UID                 uint32 // of the file that refers to it
	Inode               uint32 // 0 when no file refers to it any more
	Cookie              uint64 // SO_COOKIE
	Cgroup              uint64 // id of the cgroup that made it
	idSport, idDport    uint16 // as the kernel names it; for raw sockets the protocol
	idSource, idDestiny [16]byte
}

// String gives the socket as ss(8) would.
func (s Socket) String() string {
	return fmt.Sprintf("%s %v → %v", ProtocolName(int(s.Protocol)), s.Local, s.Remote)
}

// ProtocolName names a transport by its protocol number as messages and events do:
// "ip-" and the number where it has no name here.
func ProtocolName(p int) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	case unix.IPPROTO_MPTCP:
		return "mptcp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ping"
	case unix.IPPROTO_RAW:
		return "raw"
	default:
		return "ip-" + strconv.Itoa(p)
	}
}

// Constants of linux/inet_diag.h and linux/sock_diag.h that
// golang.org/x/sys/unix lacks.
const (
	sockDestroy        = 21 // SOCK_DESTROY
	tcpListen          = 10 // TCP_LISTEN
	inetDiagReqBytes   = 1  // INET_DIAG_REQ_BYTECODE
	inetDiagCgroupID   = 21 // INET_DIAG_CGROUP_ID
	inetDiagBCCgroup   = 13 // INET_DIAG_BC_CGROUP_COND
	diagRequestSize    = 56 // struct inet_diag_req_v2
	diagMessageSize    = 72 // struct inet_diag_msg
	diagIDSize         = 48 // struct inet_diag_sockid
	bytecodeHeaderSize = 4  // struct inet_diag_bc_op
)

// protocols are the ones that sock_diag knows and that carry data to other
// hosts. MPTCP sockets appear by their TCP subflows.
func protocols() []uint8 {
	return []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_RAW}
}

// Sockets lists the internet sockets of one cgroup in the network namespace ns
// (nil: here), IPv4 and IPv6: TCP, UDP, UDP-Lite and raw ones. It means the
// cgroup that made the socket, exactly that one and none below it. TCP
// connections in TIME_WAIT belong to no cgroup and are not among them; nor are
// raw sockets where the kernel was built without CONFIG_INET_RAW_DIAG. Linux 5.8.
func Sockets(ns *os.File, cgroup uint64) ([]Socket, error) {
	list, err := list(ns, func(family, protocol uint8) ([]Socket, error) { return sockets(family, protocol, cgroup) })
	if err != nil {
		return nil, fmt.Errorf("sockets of cgroup %d: %w", cgroup, err)
	}
	return list, nil
}

// list joins the dumps of every family and protocol in ns.
func list(ns *os.File, one func(family, protocol uint8) ([]Socket, error)) ([]Socket, error) {
	var all []Socket
	err := Do(ns, func() error {
		for _, protocol := range protocols() {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				part, err := dump(func() ([]Socket, error) { return one(family, protocol) })
				if errors.Is(err, unix.ENOENT) {
					continue // this kernel has no such protocol, or no sock_diag for it
				}
				if err != nil {
					return err
				}
				all = append(all, part...)
			}
		}
		return nil
	})
	return all, err
}

// sockets makes one dump.
func sockets(family, protocol uint8, cgroup uint64) ([]Socket, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	// One piece: the library would put an attribute before raw data.
	filter := nl.NewRtAttr(inetDiagReqBytes, cgroupFilter(cgroup)).Serialize()
	request.AddRawData(append(diagRequest(family, protocol, Socket{}), filter...))
	list, err := execute(request, protocol)
	// Raw sockets are listed without regard to the filter before Linux 5.17.
	return slices.DeleteFunc(list, func(s Socket) bool { return s.Cgroup != cgroup }), err
}

// execute sends a request and reads the sockets that answer it.
func execute(request *nl.NetlinkRequest, protocol uint8) ([]Socket, error) {
	answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, err
	}
	list := make([]Socket, 0, len(answers))
	for _, b := range answers {
		s, err := parseSocket(b, protocol)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// cgroupFilter is the bytecode "the socket's cgroup is this one": the condition,
// its operand, and behind them the end, which accepts. A false condition jumps
// past the end, which rejects (inet_diag_bc_run).
func cgroupFilter(cgroup uint64) []byte {
	const yes = bytecodeHeaderSize + 8
	b := []byte{inetDiagBCCgroup, yes}
	b = binary.NativeEndian.AppendUint16(b, yes+4)
	return binary.NativeEndian.AppendUint64(b, cgroup)
}

// diagRequest is struct inet_diag_req_v2, with the identity of s.
func diagRequest(family, protocol uint8, s Socket) []byte {
	b := make([]byte, 0, diagRequestSize)
	b = append(b, family, protocol, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in whatever state
	b = binary.BigEndian.AppendUint16(b, s.idSport)
	b = binary.BigEndian.AppendUint16(b, s.idDport)
	b = append(b, s.idSource[:]...)
	b = append(b, s.idDestiny[:]...)
	b = binary.NativeEndian.AppendUint32(b, s.Interface)
	b = binary.NativeEndian.AppendUint32(b, uint32(s.Cookie))
	return binary.NativeEndian.AppendUint32(b, uint32(s.Cookie>>32))
}

// parseSocket reads struct inet_diag_msg and the attributes behind it.
func parseSocket(b []byte, protocol uint8) (Socket, error) {
	if len(b) < diagMessageSize {
		return Socket{}, fmt.Errorf("sock_diag: message of %d bytes, want at least %d", len(b), diagMessageSize)
	}
	id := b[4 : 4+diagIDSize]
	s := Socket{
		Protocol: protocol, Family: b[0], State: b[1],
		idSport: binary.BigEndian.Uint16(id[0:]), idDport: binary.BigEndian.Uint16(id[2:]),
		idSource: [16]byte(id[4:20]), idDestiny: [16]byte(id[20:36]),
		Interface: binary.NativeEndian.Uint32(id[36:]),
		Cookie:    uint64(binary.NativeEndian.Uint32(id[40:])) | uint64(binary.NativeEndian.Uint32(id[44:]))<<32,
		UID:       binary.NativeEndian.Uint32(b[64:]),
		Inode:     binary.NativeEndian.Uint32(b[68:]),
	}
	s.Local = netip.AddrPortFrom(diagAddr(s.Family, s.idSource), s.idSport)
	s.Remote = netip.AddrPortFrom(diagAddr(s.Family, s.idDestiny), s.idDport)
	err := eachAttr(b[diagMessageSize:], func(kind uint16, data []byte) error {
		if kind == inetDiagCgroupID && len(data) == 8 {
			s.Cgroup = binary.NativeEndian.Uint64(data)
		}
		return nil
	})
	if err != nil {
		return Socket{}, fmt.Errorf("sock_diag: %w", err)
	}
	return s, nil
}

// diagAddr reads an address; an IPv4 one has the first 4 bytes.
func diagAddr(family uint8, b [16]byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

// Destroy closes a socket of another process: its owner's calls fail with
// ECONNABORTED, and a TCP peer gets a reset. ns is the socket's network
// namespace (nil: here). A socket that is gone already is no error. It needs
// CAP_NET_ADMIN there and CONFIG_INET_DIAG_DESTROY, without which it is
// unix.EOPNOTSUPP. The kernel refuses it for a listener of MPTCP with
// unix.EINVAL (tcp_abort_override).
func Destroy(ns *os.File, s Socket) error {
	err := Do(ns, func() error {
		request := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
		request.AddRawData(diagRequest(s.Family, s.Protocol, s))
		_, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
		return err
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("destroy socket %v: %w", s, err)
	}
	return nil
}

// DestroySockets destroys the sockets of one cgroup in ns (nil: here) and says
// how many they were. It goes on after an error and joins them. A listener that
// the kernel will not close is no error: it carries no data itself. Sockets that
// the cgroup makes meanwhile can be missed: end or freeze its processes first.
func DestroySockets(ns *os.File, cgroup uint64) (int, error) {
	list, err := Sockets(ns, cgroup)
	if err != nil {
		return 0, err
	}
	destroyed := 0
	var errs []error
	for _, s := range list {
		err := Destroy(ns, s)
		switch {
		case err == nil:
			destroyed++
		case s.State == tcpListen && errors.Is(err, unix.EINVAL):
		default:
			errs = append(errs, err)
		}
	}
	return destroyed, errors.Join(errs...)
}
