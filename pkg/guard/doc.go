// Package guard owns the nftables table: the second lock, which keeps the gate
// shut also where no BPF program is attached.
//
// For each level of the cgroup tree on which something is tagged the table has a
// set of cgroup ids. `socket cgroupv2` compares a socket's cgroup, seen at that
// level, with it: so whatever lies below a tagged cgroup is tagged too.
//
//	chain output      the packets of tagged sockets → tagged_N, deepest level first
//	chain tagged_N    passes: our listeners on lo, direct rules, answers; else → refuse
//	chain neighbours  passes the kernel's own neighbour discovery
//	chain refuse      counts; rejects with a reset or "administratively prohibited"
//	chain input       SYNs → syn → inbound_N: labels the connections that may be
//	                  answered, drops the SYNs for other ports of tagged listeners
//	chain postrouting drops what is addressed to our listeners and leaves elsewhere
//
// A packet without a full socket matches no cgroup and passes: SYN-ACKs, resets
// and TIME_WAIT acknowledgements, which carry no data, and ICMP errors, which the
// kernel sends from its own sockets. SYN-ACKs are governed in input: a SYN that
// was dropped has none. IPv6 extension headers and IPv4 options never pass from a
// full socket: both can name another way.
//
// What never meets the output hook is out of the table's reach: AF_PACKET and
// AF_XDP sockets (CAP_NET_RAW), other address families, and protocols whose
// packets come from the kernel's own sockets (AF_RDS, AF_RXRPC, tunnels). Who
// guards a workload that holds such a capability must keep those sockets from it.
//
// The table uses conntrack, so connection tracking is on in its namespace.
package guard
