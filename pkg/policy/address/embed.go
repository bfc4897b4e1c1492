package address

import "net/netip"

// A space is an IPv6 prefix whose addresses embed an IPv4 address at a known
// place, and may lead to it.
type space struct {
	prefix netip.Prefix
	// at is the byte at which the IPv4 address begins.
	at int
	// inverted is true where its bits are (RFC 4380 section 4).
	inverted bool
}

// spaces are those that IANA's registry knows. Mapped addresses (::ffff:0:0/96)
// are turned into IPv4 wherever an address comes in.
var spaces = [...]space{
	// Well-known NAT64 (RFC 6052).
	{prefix: netip.MustParsePrefix("64:ff9b::/96"), at: 12},
	// 6to4 (RFC 3056).
	{prefix: netip.MustParsePrefix("2002::/16"), at: 2},
	// Teredo (RFC 4380): the client; the server stands at byte 4.
	{prefix: netip.MustParsePrefix("2001::/32"), at: 12, inverted: true},
	{prefix: netip.MustParsePrefix("2001::/32"), at: 4},
	// IPv4-compatible (RFC 4291 section 2.5.5.1) and translated (RFC 2765).
	{prefix: netip.MustParsePrefix("::/96"), at: 12},
	{prefix: netip.MustParsePrefix("::ffff:0:0:0/96"), at: 12},
	// Mapped, for prefixes; an address is never in that form here.
	{prefix: netip.MustParsePrefix("::ffff:0:0/96"), at: 12},
}

// embeddedIn gives the IPv4 addresses that addr embeds, at most two.
func embeddedIn(addr netip.Addr) (found [2]netip.Addr, n int) {
	if !addr.Is6() || isLoopbackOrUnspecified(addr) {
		return found, 0
	}
	b := addr.As16()
	for i := range spaces {
		s := &spaces[i]
		if n == len(found) || !s.prefix.Contains(addr) {
			continue
		}
		v4 := [4]byte(b[s.at : s.at+4])
		if s.inverted {
			for j := range v4 {
				v4[j] = ^v4[j]
			}
		}
		found[n] = netip.AddrFrom4(v4)
		n++
	}
	return found, n
}

// isLoopbackOrUnspecified holds for :: and ::1, which are in ::/96 but embed
// nothing.
func isLoopbackOrUnspecified(addr netip.Addr) bool {
	return addr == netip.IPv6Unspecified() || addr == netip.IPv6Loopback()
}

// embeddedPrefix gives the IPv4 prefix that all addresses of p embed. Where
// they embed two (Teredo) it gives none: no entry can speak for both.
func embeddedPrefix(p netip.Prefix) (netip.Prefix, bool) {
	s, ok := spaceOf(p)
	if !ok || s.inverted || p.IsSingleIP() && isLoopbackOrUnspecified(p.Addr()) {
		return netip.Prefix{}, false
	}
	b := p.Addr().As16()
	bits := min(max(p.Bits()-8*s.at, 0), 32)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(b[s.at:s.at+4])), bits).Masked(), true
}

// spaceOf gives the space in which p lies wholly.
func spaceOf(p netip.Prefix) (*space, bool) {
	for i := range spaces {
		if p.Addr().Is6() && covers(spaces[i].prefix, p) {
			return &spaces[i], true
		}
	}
	return nil, false
}

// embed gives the prefix of s whose addresses embed those of v4.
func (s *space) embed(v4 netip.Prefix) netip.Prefix {
	b := s.prefix.Addr().As16()
	a := v4.Addr().As4()
	copy(b[s.at:], a[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 8*s.at+v4.Bits())
}

// Embedded gives the IPv4 addresses that addr embeds: the first n of found.
func Embedded(addr netip.Addr) (found [2]netip.Addr, n int) { return embeddedIn(addr) }
