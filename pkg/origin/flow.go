// Package origin answers, for an accepted connection or a DNS datagram, where it
// really wanted to go and who made it. The answer comes from the kernel: from
// the storage of the accepted socket, read through the connection's own
// descriptor, and from the table of DNS clients. The worker does it with two
// read-only map descriptors and no capability.
package origin

import "net/netip"

// A Flow is one captured connection as the kernel saw it being made.
type Flow struct {
	// ID is the cookie of the workload's socket, unique while the host is up.
	ID uint64
	// Dst is the original destination; IPv4 and mapped targets are plain IPv4.
	Dst netip.AddrPort
	// Src is the workload's own end.
	Src netip.AddrPort
	// Cgroup is the id of the cgroup that made the socket.
	Cgroup uint64
	// Workload is the id of the tagged cgroup, or of its child below a slice.
	Workload uint64
	// Netns is the cookie of the network namespace of the socket.
	Netns uint64
	// PID and UID are of the task that called connect; 0, 0 where unknown.
	PID, UID uint32
}
