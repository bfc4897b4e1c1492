package outside

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Describe gives a line for a packet, none for what the kernel itself says to its
// neighbours, and for a bare RST: the kernel's answer for a socket that is gone.
func Describe(b []byte) Packet {
	if len(b) < 20 {
		return Packet{}
	}
	var src, dst netip.Addr
	var proto byte
	var rest []byte
	note := ""
	switch {
	case b[0]>>4 == 4:
		head := int(b[0]&15) * 4
		if len(b) < head {
			return Packet{Text: "short"}
		}
		if head > 20 {
			note = " with options"
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		proto, rest = b[9], b[head:]
		if proto == unix.IPPROTO_IGMP {
			return Packet{Text: groupReport(rest, 4)}
		}
	case b[0]>>4 == 6 && len(b) >= 40:
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		proto, rest = b[6], b[40:]
		for len(rest) >= 8 && (proto == unix.IPPROTO_ROUTING || proto == unix.IPPROTO_HOPOPTS || proto == unix.IPPROTO_DSTOPTS) {
			size := 8 + int(rest[1])*8
			if proto == unix.IPPROTO_ROUTING {
				note = " by a routing header"
			}
			proto = rest[0]
			rest = rest[min(size, len(rest)):]
		}
		if proto == unix.IPPROTO_ICMPV6 && len(rest) > 0 && rest[0] >= 130 && rest[0] <= 143 {
			return Packet{Text: groupReport(rest, 16)}
		}
	default:
		return Packet{} // ARP
	}
	if lateAnswer(proto, rest) {
		return Packet{}
	}
	names := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite", unix.IPPROTO_SCTP: "sctp"}
	name := names[proto]
	if name == "" || len(rest) < 8 {
		return Packet{Text: fmt.Sprintf("protocol %d%s %s > %s", proto, note, src, dst)}
	}
	if proto == unix.IPPROTO_TCP && len(rest) >= 20 && rest[13]&4 != 0 && len(rest) == int(rest[12]>>4)*4 {
		return Packet{}
	}
	if proto == unix.IPPROTO_TCP && len(rest) >= 20 {
		if rest[13]&0x12 == 0x12 {
			note += synACK
		}
		// The same, told that it shall stay: a keep-alive of the worker is answered for
		// a socket in time-wait, once by this way, and nobody there takes it.
		if rest[13] == 0x10 && len(rest) == int(rest[12]>>4)*4 && dst.IsLoopback() {
			return Packet{}
		}
	}
	from := binary.BigEndian.Uint16(rest)
	return Packet{fmt.Sprintf("%s%s %s > %s", name, note, netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:]))), int(from)}
}

const synACK = " syn-ack"

// SYNACK reports whether it only answers a SYN.
func (p Packet) SYNACK() bool { return strings.HasPrefix(p.Text, "tcp"+synACK) }

// lateAnswer: an ICMP error of the kernel's about what a DNS server sent to a socket
// that is gone (RFC 792, RFC 4443 section 3.1: port unreachable).
func lateAnswer(proto byte, b []byte) bool {
	ihl := 40
	switch {
	case len(b) < 9:
		return false
	case proto == unix.IPPROTO_ICMP && b[0] == 3 && b[1] == 3:
		ihl = int(b[8]&15) * 4
	case proto == unix.IPPROTO_ICMPV6 && b[0] == 1 && b[1] == 4:
	default:
		return false
	}
	about := b[8:]
	return len(about) >= ihl+2 && binary.BigEndian.Uint16(about[ihl:]) == 53
}

// The groups that attacks join end with their port.
var groups = map[int]netip.Prefix{4: netip.MustParsePrefix("239.1.0.0/16"), 16: netip.MustParsePrefix("ff1e::/16")}

// GroupOf gives the group of a port, IPv4 where size is 4, IPv6 where it is 16.
func GroupOf(size, port int) string {
	if size == 4 {
		return fmt.Sprintf("239.1.%d.%d", port>>8, port&255)
	}
	return fmt.Sprintf("ff1e::%x", port)
}

// groupReport describes the memberships that attacks had the kernel report
// (RFC 3376 section 4.2, RFC 3810 section 5.2), "" for the kernel's own.
func groupReport(b []byte, size int) (all string) {
	for at := 8; (b[0] == 0x22 || b[0] == 143) && at+4+size <= len(b); at += 4 + size {
		if group, ok := netip.AddrFromSlice(b[at+4 : at+4+size]); ok && groups[size].Contains(group) {
			all += "membership of " + group.String() + ". "
		}
	}
	return all
}
