// Package address sorts IP addresses into the classes that no name may resolve
// to unless a rule says so.
package address

import (
	"net/netip"
	"strings"
)

// Classes is a set of address classes; the zero value is an ordinary address.
type Classes uint16

// The classes. An address may be in several, and then each must be exempted.
const (
	Loopback Classes = 1 << iota
	Unspecified
	// Private holds RFC 1918, unique-local and the old site-local addresses.
	Private
	LinkLocal
	// CGNAT is the shared space of RFC 6598.
	CGNAT
	Multicast
	Broadcast
	// Reserved is 240.0.0.0/4.
	Reserved
	// Metadata holds the addresses at which clouds give credentials away.
	Metadata
	// LocalNAT64 is RFC 8215's prefix: where in it an IPv4 address is embedded
	// only the network's operator knows.
	LocalNAT64
	// Own is every address of the host itself, loopback apart.
	Own
)

// table says which prefixes make up each class. Documentation ranges are
// ordinary addresses.
var table = [...]struct {
	class    Classes
	name     string
	prefixes []netip.Prefix
}{
	{Loopback, "loopback", prefixes("127.0.0.0/8", "::1/128")},
	{Unspecified, "unspecified", prefixes("0.0.0.0/8", "::/128")},
	{Private, "private", prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")},
	{LinkLocal, "link-local", prefixes("169.254.0.0/16", "fe80::/10")},
	{CGNAT, "CGNAT", prefixes("100.64.0.0/10")},
	{Multicast, "multicast", prefixes("224.0.0.0/4", "ff00::/8")},
	{Broadcast, "broadcast", prefixes("255.255.255.255/32")},
	{Reserved, "reserved", prefixes("240.0.0.0/4")},
	{Metadata, "metadata", prefixes("169.254.169.254/32", "fd00:ec2::254/128")},
	{LocalNAT64, "local NAT64", prefixes("64:ff9b:1::/48")},
	{Own, "the host's own", nil},
}

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// String names the classes, for a person.
func (c Classes) String() string {
	var names []string
	for i := range table {
		if c&table[i].class != 0 {
			names = append(names, table[i].name)
		}
	}
	if len(names) == 0 {
		return "ordinary"
	}
	return strings.Join(names, " and ")
}

// literal gives the classes of an address as it is written, whatever it embeds.
func literal(addr netip.Addr) (c Classes) {
	for i := range table {
		for _, p := range table[i].prefixes {
			if p.Contains(addr) {
				c |= table[i].class
			}
		}
	}
	return c
}

// Of gives all classes of an address and of what it embeds. own reports the
// addresses of the host itself; nil: none.
func Of(addr netip.Addr, own func(netip.Addr) bool) Classes {
	addr = addr.Unmap().WithZone("")
	c := classify(addr, own)
	embedded, n := embeddedIn(addr)
	for _, e := range embedded[:n] {
		c |= classify(e, own)
	}
	return c
}

func classify(addr netip.Addr, own func(netip.Addr) bool) Classes {
	c := literal(addr)
	if c&Loopback == 0 && own != nil && own(addr) {
		c |= Own
	}
	return c
}

// Within gives the classes in which a prefix lies wholly, by what it embeds
// where it is one that embeds. Own cannot be known from the prefix alone.
func Within(p netip.Prefix) (c Classes) {
	p = p.Masked()
	for i := range table {
		for _, q := range table[i].prefixes {
			if covers(q, p) {
				c |= table[i].class
			}
		}
	}
	if v4, ok := embeddedPrefix(p); ok {
		c |= Within(v4)
	}
	return c
}

// covers reports whether all of p lies in q.
func covers(q, p netip.Prefix) bool {
	return q.Bits() <= p.Bits() && q.Contains(p.Addr())
}
