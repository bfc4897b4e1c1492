// Package guard owns the nftables table.
package guard

import "net/netip"

// A State is all that tagged sockets of one network namespace may reach.
type State struct {
	// Listeners are our TCP listeners and Resolvers our UDP ones, reached on
	// interface lo at exactly these addresses and ports.
	Listeners, Resolvers []netip.AddrPort
	// Tagged are the cgroups whose sockets are guarded.
	Tagged []Cgroup
	// Direct is what tagged sockets may reach without us.
	Direct []Direct
	// Inbound are the ports on which tagged listeners answer other hosts.
	Inbound []Inbound
}

// A Cgroup is a tagged cgroup.
type Cgroup struct {
	// ID is the cgroup's id: the inode number of its directory in cgroup2.
	ID uint64
	// Level is its depth below the root of the caller's cgroup namespace: 1 for
	// a child of the root, at most 255.
	Level int
}

// A Protocol is an IP protocol number.
type Protocol uint8

// The protocols that a Direct can permit.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// A Direct permits the sockets of one cgroup to send to the addresses of Prefix
// on the ports First to Last, both included.
type Direct struct {
	// Cgroup is the id of a cgroup in Tagged; 0 means every one of them.
	Cgroup      uint64
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
