package convert

import (
	"net/netip"

	"sallyport/pkg/policy/address"
	"sallyport/pkg/policy/pattern"
)

// Host brings a host of a source into the form of `hosts`; false where it is
// none.
func Host(s string) (string, bool) {
	h, err := pattern.ParseHost(s)
	return h.String(), err == nil
}

// Private gives the entries of `private` that the gateway's origins need:
// addresses that are written as such and that no rule reaches unless it says so.
func Private(hosts []string) (all []string) {
	for _, h := range hosts {
		if h == "localhost" {
			all = append(all, "127.0.0.1/32", "::1/128")
			continue
		}
		addr, err := netip.ParseAddr(h)
		if err == nil && address.Of(addr, nil) != 0 {
			all = append(all, netip.PrefixFrom(addr, addr.BitLen()).String())
		}
	}
	return all
}
