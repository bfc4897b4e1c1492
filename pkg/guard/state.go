package guard

import (
	"fmt"
	"net/netip"
	"slices"
)

// A State is all that the tagged sockets of one network namespace may reach.
// The zero State guards nobody.
type State struct {
	// Listeners are our TCP listeners and Resolvers our UDP ones: reached on
	// the loopback interface, at exactly these addresses and ports.
	Listeners, Resolvers []netip.AddrPort
	// Tagged are the cgroups whose sockets are guarded. Where one lies below
	// another, the deeper one decides.
	Tagged []Cgroup
	// Direct is what tagged sockets may reach without us.
	Direct []Direct
	// Inbound are the ports on which tagged listeners answer other hosts.
	Inbound []Inbound
	// Redirect is set where the table captures too; nil where BPF does, and where
	// tagged sockets reach our listeners by themselves.
	Redirect *Redirect
}

// A Cgroup is a tagged cgroup.
type Cgroup struct {
	// ID is the cgroup's id: the inode number of its directory in cgroup2. A
	// cgroup made anew under the same path has another one.
	ID uint64
	// Level is its depth below the root of the caller's cgroup namespace
	// (cgroup_namespaces(7)): 1 for a child of that root, at most 255.
	Level int
}

// A Protocol is an IP protocol number (IANA "Assigned Internet Protocol
// Numbers").
type Protocol uint8

// The protocols that a Direct can permit.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// A Direct permits the sockets of a cgroup to send to the addresses of Prefix on
// the ports First to Last, both included.
type Direct struct {
	// Cgroup is the id of a cgroup in Tagged; 0 means every one of them.
	Cgroup uint64
	// Prefix may be an IPv4-mapped one: it then means the IPv4 prefix in it,
	// since that is what the packets carry.
	Prefix      netip.Prefix
	First, Last uint16
	Protocol    Protocol
}

// An Inbound permits the TCP listeners of one tagged cgroup to answer
// connections from other hosts on Port.
type Inbound struct {
	Cgroup uint64
	Port   uint16
}

// maxLevel is the highest level that nft_socket takes.
const maxLevel = 255

// levels maps each tagged cgroup to its level. What cannot be enforced as
// written is an error: leaving it out would open or break something silently.
func (s *State) levels() (map[uint64]int, error) {
	levels := make(map[uint64]int, len(s.Tagged))
	for _, c := range s.Tagged {
		if c.ID == 0 {
			return nil, fmt.Errorf("tagged cgroup without an id (level %d)", c.Level)
		}
		if c.Level < 1 || c.Level > maxLevel {
			return nil, fmt.Errorf("tagged cgroup %d: level %d is outside 1 to %d", c.ID, c.Level, maxLevel)
		}
		if have, ok := levels[c.ID]; ok && have != c.Level {
			return nil, fmt.Errorf("tagged cgroup %d is given at level %d and at level %d", c.ID, have, c.Level)
		}
		levels[c.ID] = c.Level
	}
	return levels, nil
}

// depths lists the levels in use, deepest first: that is the order in which the
// rules ask, so that the most specific cgroup decides.
func depths(levels map[uint64]int) []int {
	var seen []int
	for _, level := range levels {
		if !slices.Contains(seen, level) {
			seen = append(seen, level)
		}
	}
	slices.Sort(seen)
	slices.Reverse(seen)
	return seen
}

// endpoint checks one of our own addresses. A zone cannot be matched in a
// packet, port 0 is none, and the unspecified address is never a destination.
func endpoint(what string, a netip.AddrPort) (netip.AddrPort, error) {
	addr := a.Addr().Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.Zone() != "" || a.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s %v: want an exact address and port", what, a)
	}
	return netip.AddrPortFrom(addr, a.Port()), nil
}

// normal gives the direct rule with an unmapped, masked prefix, or says what is
// wrong with it.
func (d Direct) normal(levels map[uint64]int) (Direct, error) {
	if _, ok := levels[d.Cgroup]; !ok && d.Cgroup != 0 {
		return d, fmt.Errorf("direct %v: cgroup %d is not tagged", d.Prefix, d.Cgroup)
	}
	if d.Protocol != TCP && d.Protocol != UDP {
		return d, fmt.Errorf("direct %v: protocol %d is neither TCP nor UDP", d.Prefix, d.Protocol)
	}
	if d.First > d.Last {
		return d, fmt.Errorf("direct %v: ports %d to %d", d.Prefix, d.First, d.Last)
	}
	if !d.Prefix.IsValid() {
		return d, fmt.Errorf("direct: invalid prefix")
	}
	const mapped = 96 // bits of ::ffff:0:0/96, RFC 4291 section 2.5.5.2
	if a := d.Prefix.Addr(); a.Is4In6() {
		if d.Prefix.Bits() < mapped {
			return d, fmt.Errorf("direct %v: wider than the IPv4-mapped addresses", d.Prefix)
		}
		d.Prefix = netip.PrefixFrom(a.Unmap(), d.Prefix.Bits()-mapped)
	}
	d.Prefix = d.Prefix.Masked()
	return d, nil
}
