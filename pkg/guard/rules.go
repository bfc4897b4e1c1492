package guard

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// priority is that of every base chain of the table: behind all other chains, so
// that the guard sees the packet as it leaves. Destination NAT in output runs at
// -100 (NF_IP_PRI_NAT_DST), a chain of type route reroutes within its own hook.
// One below the highest: conntrack confirms new connections there, in input and
// postrouting, and must come last (NF_IP_PRI_CONNTRACK_CONFIRM).
const priority = math.MaxInt32 - 1

// labelBit is the conntrack label of a connection whose SYN came in to a tagged
// listener that may answer it. The number has no meaning; it is far from those
// that connlabel.conf(5) users begin with.
const labelBit = 101

// loopback is the interface index of lo: 1 in every network namespace
// (LOOPBACK_IFINDEX). A name could be given to another interface.
const loopback = 1

// Kernel constants that golang.org/x/sys/unix does not have, with the header
// that defines them.
const (
	ctDirectionOriginal = 0 // IP_CT_DIR_ORIGINAL, linux/netfilter/nf_conntrack_tuple_common.h
	ctDirectionReply    = 1 // IP_CT_DIR_REPLY

	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10 // RFC 9293 section 3.1
)

// Offsets into headers: RFC 791 section 3.1, RFC 8200 section 3, RFC 9293
// section 3.1, RFC 768.
const (
	ip4VersionIHL  = 0
	ip4Protocol    = 9
	ip4Destination = 16
	ip6NextHeader  = 6
	ip6Destination = 24
	// A hop-by-hop header right behind the fixed one (RFC 8200 section 4.3).
	ip6HopNextHeader = 40
	ip6HopLength     = 41
	thDestination    = 2 // of TCP and UDP alike
	tcpFlags         = 13
	icmpType         = 0
)

// ip6JumboOption is the type of the jumbo payload option (RFC 2675 section 2).
const ip6JumboOption = 0xc2

// reg gives the netlink number of a 4-byte register. The kernel names every
// fourth one by its 16-byte name when it lists rules (nft_dump_register); using
// the same names keeps rules comparable.
func reg(word int) uint32 {
	if word%4 == 0 {
		return unix.NFT_REG_1 + uint32(word/4)
	}
	return unix.NFT_REG32_00 + uint32(word)
}

// A match is a piece of a rule; rules are concatenations of matches.
type match []expr.Any

// equal compares register 0 with data.
func equal(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: data}
}

// host32 is a number as nft_meta and nft_fib store it: in host order.
func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// family holds for packets of IPv4 (unix.NFPROTO_IPV4) or IPv6.
func family(proto byte) match {
	return match{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg(0)}, equal(proto)}
}

// transport holds for packets of one protocol, behind whatever extension headers
// an IPv6 packet has.
func transport(protocol byte) match {
	return match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)}, equal(protocol)}
}

// leavesByLoopback and cameByLoopback hold for packets on lo.
func leavesByLoopback() match {
	return match{&expr.Meta{Key: expr.MetaKeyOIF, Register: reg(0)}, equal(host32(loopback)...)}
}

func cameByLoopback() match {
	return match{&expr.Meta{Key: expr.MetaKeyIIF, Register: reg(0)}, equal(host32(loopback)...)}
}

// leavesElsewhere holds for packets that do not leave by lo.
func leavesElsewhere() match {
	return match{
		&expr.Meta{Key: expr.MetaKeyOIF, Register: reg(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: host32(loopback)},
	}
}

// loadNetwork and loadTransport read a header field into registers from word on.
func loadNetwork(offset, length uint32, word int) expr.Any {
	return &expr.Payload{DestRegister: reg(word), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func loadTransport(offset, length uint32, word int) expr.Any {
	return &expr.Payload{DestRegister: reg(word), Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// loadCgroup reads the id of the socket's cgroup, seen at a level, into two
// registers. Without a full socket, or with one less deep, the rule does not
// hold (nft_socket: NFT_BREAK).
func loadCgroup(level, word int) expr.Any {
	return &expr.Socket{Key: expr.SocketKeyCgroupv2, Level: uint32(level), Register: reg(word)}
}

// in looks registers from 0 on up in a set.
func in(set string) expr.Any { return &expr.Lookup{SourceRegister: reg(0), SetName: set} }

// cgroupIn holds for sockets whose cgroup at level is in the set.
func cgroupIn(level int, set string) match { return match{loadCgroup(level, 0), in(set)} }

// An ipVersion is what differs between IPv4 and IPv6 in a rule.
type ipVersion struct {
	header            match // holds for packets of this version and form
	suffix            string
	protocol          uint32 // offset of the protocol field
	destination, size uint32 // offset and length of the destination address
	addr              nftables.SetDatatype
}

// versions are the two versions of IP. The IPv6 protocol field is the next
// header of the fixed header: a packet with extension headers matches no set. It
// could name another way in a routing header (RFC 8754), and no listener or
// direct rule needs one.
func versions() [2]ipVersion {
	return [2]ipVersion{
		{family(unix.NFPROTO_IPV4), "4", ip4Protocol, ip4Destination, 4, nftables.TypeIPAddr},
		{family(unix.NFPROTO_IPV6), "6", ip6NextHeader, ip6Destination, 16, nftables.TypeIP6Addr},
	}
}

// forms are the forms in which packets of a socket come by: the two versions, and
// IPv6 with the jumbo option alone (RFC 2675 section 2). The kernel writes that
// header, until 6.19, into every segment over 64 KiB that it leaves to a later
// hand to cut (ip6_xmit), and on lo such segments are everyday: there two are put
// together however long one is. It names no other way.
func forms() [3]ipVersion {
	v, big := versions(), versions()[1]
	big.header = append(family(unix.NFPROTO_IPV6),
		loadNetwork(ip6NextHeader, 1, 0), equal(unix.IPPROTO_HOPOPTS),
		loadNetwork(ip6HopLength, 3, 0), equal(0, ip6JumboOption, 4))
	big.protocol = ip6HopNextHeader
	return [3]ipVersion{v[0], v[1], big}
}

// destinationIn holds for packets whose protocol, destination address and port
// are in the set. Later fragments have no port and do not match.
func (v ipVersion) destinationIn(set string) match {
	return slices.Concat(v.header, v.loadDestination(0), match{in(set)})
}

// cgroupDestinationIn does the same with the socket's cgroup as the first field.
func (v ipVersion) cgroupDestinationIn(level int, set string) match {
	return slices.Concat(v.header, match{loadCgroup(level, 0)}, v.loadDestination(cgroupWords), match{in(set)})
}

// cgroupWords is how many registers a cgroup id takes.
const cgroupWords = 2

// loadDestination reads protocol, destination address and port.
func (v ipVersion) loadDestination(word int) match {
	return match{
		loadNetwork(v.protocol, 1, word),
		loadNetwork(v.destination, v.size, word+1),
		loadTransport(thDestination, 2, word+1+int(v.size/4)),
	}
}

// tcp holds for packets whose header names TCP with nothing in between.
func (v ipVersion) tcp() match {
	return slices.Concat(v.header, match{loadNetwork(v.protocol, 1, 0), equal(unix.IPPROTO_TCP)})
}

// hasOptions holds for IPv4 packets with options: they could name a source route
// (RFC 791 section 3.1), and then the destination in the header is only the next
// hop.
func hasOptions() match {
	const words, least = 0x0f, 5 // the header's length in 4-byte words, and without options
	return append(family(unix.NFPROTO_IPV4),
		loadNetwork(ip4VersionIHL, 1, 0),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 1, Mask: []byte{words}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: []byte{least}})
}

// flags holds for TCP segments where the flags under mask are exactly want.
func flags(mask, want byte) match {
	return match{
		loadTransport(tcpFlags, 1, 0),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		equal(want),
	}
}

// direction holds for tracked packets of one direction of their connection. A
// packet without conntrack entry matches neither.
func direction(dir byte) match {
	return match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg(0)}, equal(dir)}
}

// label is the conntrack label as a bit field of 128 bits.
func label() []byte {
	bits := make([]byte, 16)
	bits[labelBit/8] = 1 << (labelBit % 8)
	return bits
}

// setLabel marks the packet's connection. It changes no other label bit: the
// kernel takes the data as mask too (nf_connlabels_replace).
func setLabel() match {
	return match{
		&expr.Immediate{Register: reg(0), Data: label()},
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg(0), SourceRegister: true},
	}
}

// hasLabel holds for packets of a marked connection.
func hasLabel() match {
	return match{
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 16, Mask: label(), Xor: make([]byte, 16)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: make([]byte, 16)},
	}
}

// fromHere holds for packets whose source is an address of this namespace.
func fromHere() match {
	return match{
		&expr.Fib{Register: reg(0), FlagSADDR: true, ResultADDRTYPE: true},
		equal(host32(unix.RTN_LOCAL)...),
	}
}

// held holds for packets of sockets that a file refers to: nft_meta gives the
// owner only of those, and every uid is at least 0.
func held() match {
	return match{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: reg(0)},
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg(0), Data: make([]byte, 4)},
	}
}

// icmp6 holds for ICMPv6 packets, icmp6Type for those of one type.
func icmp6() match {
	return slices.Concat(family(unix.NFPROTO_IPV6), transport(unix.IPPROTO_ICMPV6))
}

func icmp6Type(kind byte) match { return match{loadTransport(icmpType, 1, 0), equal(kind)} }

// neighbourMessages are the ICMPv6 types by which a kernel finds its neighbours
// and joins groups: router and neighbour solicitation, neighbour advertisement
// (RFC 4861 section 4), listener reports and done (RFC 2710, RFC 3810).
func neighbourMessages() []byte { return []byte{133, 135, 136, 131, 132, 143} }

// count adds the packet to a named counter.
func count(counter string) match {
	return match{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

// accept, drop, goTo and the rejects end a rule.
func accept() match { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() match   { return match{&expr.Verdict{Kind: expr.VerdictDrop}} }
func goTo(chain string) match {
	return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func jump(chain string) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}
func goBack() match { return match{&expr.Verdict{Kind: expr.VerdictReturn}} }

// reset answers a TCP segment with a RST; never a RST with one.
func reset() match { return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

// prohibited answers with an ICMP or ICMPv6 error "administratively prohibited".
func prohibited() match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}
