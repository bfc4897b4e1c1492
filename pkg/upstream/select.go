package upstream

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// A sourceOf tells from which of our addresses packets to an address would
// leave; false where there is no way to it at all.
type sourceOf func(netip.Addr) (netip.Addr, bool)

// kernelSource asks the kernel, by connecting a datagram socket: that sends
// nothing.
func kernelSource(to netip.Addr) (netip.Addr, bool) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16(), Port: 9})
	if to.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4(), Port: 9}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, false
	}
	defer unix.Close(fd)
	if unix.Connect(fd, sa) != nil {
		return netip.Addr{}, false
	}
	from, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, false
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(from.Addr), true
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(from.Addr), true
	default:
		return netip.Addr{}, false
	}
}

// sortBySelection puts addresses in the order of RFC 6724 section 6, as RFC
// 8305 section 4 demands: rules 1, 2, 5, 6 and 8, then as they came. Rule 9 is
// left out, as in most resolvers: it defeats the shuffling of name servers. Only
// where both families are there is anything to decide, and is the kernel asked.
func sortBySelection(addrs []netip.Addr, source sourceOf) {
	four := func(a netip.Addr) bool { return a.Is4() }
	if !slices.ContainsFunc(addrs, four) || !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !four(a) }) {
		return
	}
	type candidate struct {
		addr               netip.Addr
		usable             bool
		scope, sourceScope int
		class, sourceClass class
	}
	all := make([]candidate, len(addrs))
	for i, a := range addrs {
		c := candidate{addr: a, scope: scopeOf(a), class: classOf(a)}
		var from netip.Addr
		if from, c.usable = source(a); c.usable {
			c.sourceScope, c.sourceClass = scopeOf(from), classOf(from)
		}
		all[i] = c
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		better := func(a, b bool) int {
			switch {
			case a == b:
				return 0
			case a:
				return -1
			default:
				return 1
			}
		}
		if d := better(a.usable, b.usable); d != 0 || !a.usable {
			return d // rule 1
		}
		if d := better(a.scope == a.sourceScope, b.scope == b.sourceScope); d != 0 {
			return d // rule 2
		}
		if d := better(a.class.label == a.sourceClass.label, b.class.label == b.sourceClass.label); d != 0 {
			return d // rule 5
		}
		if d := b.class.precedence - a.class.precedence; d != 0 {
			return d // rule 6
		}
		return a.scope - b.scope // rule 8
	})
	for i := range all {
		addrs[i] = all[i].addr
	}
}

// The scopes of RFC 6724 section 3.1 and 3.2.
const (
	scopeLink   = 0x2
	scopeSite   = 0x5
	scopeGlobal = 0xe
)

func scopeOf(a netip.Addr) int {
	switch {
	case a.IsLoopback(), a.IsLinkLocalUnicast():
		return scopeLink
	case classOf(a).label == labelSiteLocal:
		return scopeSite
	default:
		return scopeGlobal
	}
}

const labelSiteLocal = 11

// A class is an entry of the default policy table (RFC 6724 section 2.1).
type class struct{ precedence, label int }

// classOf looks an address up in that table, the longest prefix first.
func classOf(a netip.Addr) class {
	in := func(prefix netip.Addr, bits int) bool { return netip.PrefixFrom(prefix, bits).Contains(a) }
	switch {
	case a.Is4():
		return class{35, 4}
	case a == netip.IPv6Loopback():
		return class{50, 0}
	case in(netip.IPv6Unspecified(), 96):
		return class{1, 3}
	case in(netip.AddrFrom16([16]byte{0x20, 0x01}), 32):
		return class{5, 5} // Teredo
	case in(netip.AddrFrom16([16]byte{0x20, 0x02}), 16):
		return class{30, 2} // 6to4
	case in(netip.AddrFrom16([16]byte{0x3f, 0xfe}), 16):
		return class{1, 12}
	case in(netip.AddrFrom16([16]byte{0xfe, 0xc0}), 10):
		return class{1, labelSiteLocal}
	case in(netip.AddrFrom16([16]byte{0xfc}), 7):
		return class{3, 13}
	default:
		return class{40, 1}
	}
}
