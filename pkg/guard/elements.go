package guard

import (
	"encoding/binary"
	"net/netip"
)

// An element is a key of a set, or the lowest and highest key of a box of an
// interval set. Strings, so that elements can be compared and be map keys.
type element struct{ key, end string }

// A key builds the key of a set from fields. Each field begins at a register,
// which is 4 bytes wide; the rest of the last register is zero.
type key []byte

// cgroup appends a cgroup id as nft_socket puts it into a register: 8 bytes in
// host order.
func (k key) cgroup(id uint64) key { return binary.NativeEndian.AppendUint64(k, id) }

// protocol appends an IP protocol number.
func (k key) protocol(p Protocol) key { return append(k, byte(p), 0, 0, 0) }

// addr appends an address in network order.
func (k key) addr(a netip.Addr) key { return append(k, a.AsSlice()...) }

// port appends a port in network order.
func (k key) port(p uint16) key {
	return append(binary.BigEndian.AppendUint16(k, p), 0, 0)
}

// local is the element of one of our own sockets.
func local(p Protocol, a netip.AddrPort) element {
	return element{key: string(key(nil).protocol(p).addr(a.Addr()).port(a.Port()))}
}

// tagged is the element of a cgroup.
func tagged(id uint64) element { return element{key: string(key(nil).cgroup(id))} }

// inbound is the element of a port on which a cgroup answers.
func inbound(in Inbound) element {
	return element{key: string(key(nil).cgroup(in.Cgroup).port(in.Port))}
}

// element is the box as an interval. A box for every cgroup has no cgroup field:
// its set is asked without one.
func (b box) element() element {
	var low, high key
	if b.cgroup != 0 {
		low, high = low.cgroup(b.cgroup), high.cgroup(b.cgroup)
	}
	low = low.protocol(b.protocol).addr(b.prefix.Addr()).port(b.ports.first)
	high = high.protocol(b.protocol).addr(last(b.prefix)).port(b.ports.last)
	return element{key: string(low), end: string(high)}
}
