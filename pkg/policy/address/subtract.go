package address

import "net/netip"

// Ordinary gives what is left of an entry of a `direct` rule when every address
// class is taken out in which it does not lie wholly: what the kernel may let
// pass without asking. own are the addresses of the host itself.
func Ordinary(entry netip.Prefix, own []netip.Addr) []netip.Prefix {
	entry = unmapPrefix(entry.Masked())
	left := []netip.Prefix{entry}
	for i := range table {
		for _, p := range table[i].prefixes {
			if !exempt(entry, table[i].prefixes) {
				left = subtract(left, p)
			}
		}
	}
	for _, a := range own {
		a = a.Unmap().WithZone("")
		if p := netip.PrefixFrom(a, a.BitLen()); p != entry && literal(a)&Loopback == 0 {
			left = subtract(left, p)
		}
	}
	return withoutEmbedded(entry, left, own)
}

// exempt reports whether the entry lies wholly inside one of the prefixes of a
// class.
func exempt(entry netip.Prefix, class []netip.Prefix) bool {
	for _, p := range class {
		if covers(p, entry) {
			return true
		}
	}
	return false
}

// withoutEmbedded takes out what leads to an IPv4 address that would have been
// taken out: whole spaces where the entry is wider than they are.
func withoutEmbedded(entry netip.Prefix, left []netip.Prefix, own []netip.Addr) []netip.Prefix {
	if entry.Addr().Is4() || isLoopbackOrUnspecified(entry.Addr()) && entry.IsSingleIP() {
		return left
	}
	for i := range spaces {
		s := &spaces[i]
		if covers(s.prefix, entry) && !s.inverted {
			continue
		}
		if s.inverted || !covers(s.prefix, entry) {
			left = subtract(left, s.prefix)
		}
	}
	v4, ok := embeddedPrefix(entry)
	if !ok {
		return left
	}
	s, _ := spaceOf(entry)
	for i := range table {
		for _, p := range table[i].prefixes {
			if p.Addr().Is4() && !exempt(v4, table[i].prefixes) {
				left = subtract(left, s.embed(p))
			}
		}
	}
	for _, a := range own {
		if a = a.Unmap(); a.Is4() && literal(a)&Loopback == 0 {
			left = subtract(left, s.embed(netip.PrefixFrom(a, 32)))
		}
	}
	return left
}

// subtract takes p out of every prefix of list.
func subtract(list []netip.Prefix, p netip.Prefix) []netip.Prefix {
	var left []netip.Prefix
	for _, q := range list {
		for q.Overlaps(p) && q.Bits() < p.Bits() {
			low, high := halves(q)
			if low.Overlaps(p) {
				low, high = high, low
			}
			// Now low is the half that stays whole.
			left = append(left, low)
			q = high
		}
		if !q.Overlaps(p) {
			left = append(left, q)
		}
	}
	return left
}

// halves splits a prefix that is not a single address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	low = netip.PrefixFrom(p.Addr(), bits)
	if p.Addr().Is4() {
		b := p.Addr().As4()
		b[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
		return low, netip.PrefixFrom(netip.AddrFrom4(b), bits)
	}
	b := p.Addr().As16()
	b[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
	return low, netip.PrefixFrom(netip.AddrFrom16(b), bits)
}

// unmapPrefix writes a prefix of mapped addresses as IPv4.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}
