package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Tracked is what conntrack knows of a connection or datagram exchange.
type Tracked struct {
	// Src and Dst are the ends as the client sees them: before any NAT.
	Src, Dst netip.AddrPort
	// Zone is that of the direction in which it began.
	Zone uint16
	// ID names the entry as long as it exists; another one of the same ends has
	// another.
	ID uint32
	// Status are the bits of enum ip_conntrack_status.
	Status uint32
}

// StatusDNAT says that the destination was changed (IPS_DST_NAT).
const StatusDNAT = 1 << 5

// ErrNotTracked says that conntrack has no such entry.
var ErrNotTracked = errors.New("not tracked")

// What golang.org/x/sys/unix lacks of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet        = 1<<8 | 1 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
	ctaTupleOrig = 1
	ctaTupleRep  = 2
	ctaStatus    = 3
	ctaID        = 12
	ctaZone      = 18

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src, ctaIPv4Dst = 1, 2
	ctaIPv6Src, ctaIPv6Dst = 3, 4

	ctaProtoNum, ctaProtoSrc, ctaProtoDst = 1, 2, 3

	nestedAttr = 1 << 15 // NLA_F_NESTED
)

// TrackedAs looks up the connection whose answers go from local to peer: that
// of the socket here which has these ends, whatever NAT made of the client's. It
// returns ErrNotTracked where there is none. ns is the network namespace (nil:
// here). It needs CAP_NET_ADMIN there and CONFIG_NF_CT_NETLINK.
//
// The kernel's SO_ORIGINAL_DST does the same look-up and tells only where to; the
// source may be another one too: two sockets of a client can have one port and
// two destinations, and where both are sent to one listener NAT gives the second
// another port (get_unique_tuple).
func TrackedAs(ns *os.File, protocol uint8, local, peer netip.AddrPort) (Tracked, error) {
	var t Tracked
	err := Do(ns, func() error {
		// The answer is marked as one of several (ctnetlink_fill_info), and only
		// the acknowledgement ends them.
		request := nl.NewNetlinkRequest(ctGet, unix.NLM_F_ACK)
		family := byte(unix.AF_INET6)
		if local.Addr().Is4() {
			family = unix.AF_INET
		}
		request.AddRawData(append([]byte{family, unix.NFNETLINK_V0, 0, 0}, tuple(protocol, local, peer).Serialize()...))
		answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
		if errors.Is(err, unix.ENOENT) {
			return ErrNotTracked
		}
		if err != nil {
			return err
		}
		if len(answers) != 1 {
			return fmt.Errorf("%d answers", len(answers))
		}
		t, err = parseTracked(answers[0])
		return err
	})
	if err != nil {
		return t, fmt.Errorf("conntrack entry of %s %v → %v: %w", ProtocolName(int(protocol)), peer, local, err)
	}
	return t, nil
}

// tuple is CTA_TUPLE_REPLY.
func tuple(protocol uint8, from, to netip.AddrPort) *nl.RtAttr {
	src, dst := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if from.Addr().Is4() {
		src, dst = ctaIPv4Src, ctaIPv4Dst
	}
	t := nl.NewRtAttr(ctaTupleRep|nestedAttr, nil)
	ip := t.AddRtAttr(ctaTupleIP|nestedAttr, nil)
	ip.AddRtAttr(int(src), from.Addr().AsSlice())
	ip.AddRtAttr(int(dst), to.Addr().AsSlice())
	p := t.AddRtAttr(ctaTupleProto|nestedAttr, nil)
	p.AddRtAttr(ctaProtoNum, []byte{protocol})
	p.AddRtAttr(ctaProtoSrc, binary.BigEndian.AppendUint16(nil, from.Port()))
	p.AddRtAttr(ctaProtoDst, binary.BigEndian.AppendUint16(nil, to.Port()))
	return t
}

// parseTracked reads an entry behind its struct nfgenmsg.
func parseTracked(b []byte) (Tracked, error) {
	var t Tracked
	const nfgenmsg = 4
	if len(b) < nfgenmsg {
		return t, errors.New("short message")
	}
	err := eachAttr(b[nfgenmsg:], func(kind uint16, data []byte) error {
		switch kind {
		case ctaTupleOrig:
			return t.parseTuple(data)
		case ctaStatus:
			t.Status = uint32(bigEndian(data))
		case ctaID:
			t.ID = uint32(bigEndian(data))
		case ctaZone:
			t.Zone = uint16(bigEndian(data))
		}
		return nil
	})
	if err == nil && (!t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Addr().Is4() != t.Dst.Addr().Is4()) {
		err = errors.New("an entry without two addresses of one family")
	}
	return t, err
}

func (t *Tracked) parseTuple(b []byte) error {
	var src, dst netip.Addr
	var sport, dport uint16
	err := eachAttr(b, func(kind uint16, data []byte) error {
		switch kind {
		case ctaTupleIP:
			return eachAttr(data, func(kind uint16, data []byte) error {
				addr, _ := netip.AddrFromSlice(data)
				switch kind {
				case ctaIPv4Src, ctaIPv6Src:
					src = addr
				case ctaIPv4Dst, ctaIPv6Dst:
					dst = addr
				}
				return nil
			})
		case ctaTupleProto:
			return eachAttr(data, func(kind uint16, data []byte) error {
				switch kind {
				case ctaProtoSrc:
					sport = uint16(bigEndian(data))
				case ctaProtoDst:
					dport = uint16(bigEndian(data))
				}
				return nil
			})
		case ctaTupleZone:
			t.Zone = uint16(bigEndian(data))
		}
		return nil
	})
	t.Src, t.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return err
}

// eachAttr gives the attributes of a message (linux/netlink.h) to f. The library's
// reader takes no last attribute without padding.
func eachAttr(b []byte, f func(kind uint16, data []byte) error) error {
	const header = unix.SizeofRtAttr
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			return fmt.Errorf("an attribute of %d bytes in %d", size, len(b))
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[header:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

func bigEndian(b []byte) (n uint64) {
	for _, octet := range b {
		n = n<<8 | uint64(octet)
	}
	return n
}
