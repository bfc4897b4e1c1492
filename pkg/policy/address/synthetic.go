package address

import "net/netip"

// Synthetic4 and Synthetic6 are where the resolver takes the addresses that it
// gives to names which go by an upstream proxy: the space that RFC 2544 and RFC
// 5180 set aside for benchmarks, which no network routes.
var (
	Synthetic4 = netip.MustParsePrefix("198.18.0.0/15")
	Synthetic6 = netip.MustParsePrefix("2001:2::/48")
)

// IsSynthetic reports whether an address lies there, or embeds an address that
// does.
func IsSynthetic(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if Synthetic4.Contains(addr) || Synthetic6.Contains(addr) {
		return true
	}
	if !addr.Is6() {
		return false
	}
	embedded, n := embeddedIn(addr)
	for _, e := range embedded[:n] {
		if Synthetic4.Contains(e) {
			return true
		}
	}
	return false
}

// WithoutSynthetic takes that space out of a list of prefixes.
func WithoutSynthetic(list []netip.Prefix) []netip.Prefix {
	return subtract(subtract(list, Synthetic4), Synthetic6)
}
