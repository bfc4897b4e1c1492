// Package datapath owns the kernel's BPF side: it loads the programs, attaches
// them by links that are pinned, fills their maps, and reads flows, counters and
// events back. It is the only importer of cilium/ebpf.
package datapath

import (
	"errors"
	"net/netip"
)

var (
	// ErrNotSupported is wrapped by errors of a kernel that lacks what is needed.
	ErrNotSupported = errors.New("not supported by this kernel")
	// ErrExists is wrapped when Create finds the pins of another Datapath.
	ErrExists = errors.New("pins exist already")
	// ErrNotPinned is wrapped when Open finds no pins, or incomplete ones.
	ErrNotPinned = errors.New("not pinned")
	// ErrIncompatible is wrapped when Open finds maps of another layout.
	ErrIncompatible = errors.New("pinned maps have another layout")
	// ErrNested is wrapped when a cgroup above or below a tagged one is tagged:
	// the programs would run twice for one call.
	ErrNested = errors.New("a cgroup above or below it is tagged already")
)

// DefaultPlaces is how many flows may exist at one time.
const DefaultPlaces = 16384

// Options say where a Datapath lives.
type Options struct {
	// PinDir is a directory on a bpffs that belongs to this Datapath alone; it is
	// created. Its parent must exist.
	PinDir string
	// Places bounds the flows that exist at one time; 0 means DefaultPlaces. One
	// workload holds at most half. DNS clients have a table of the same size. Open
	// keeps what the pinned maps have.
	Places uint32
	// CgroupRoot is the mount point of cgroup2: the programs that refuse foreign
	// sockets sit there.
	CgroupRoot string
	// KeeperCgroup is the directory of the cgroup in which the listeners are made
	// (the keeper's own). Connections are handed over only there.
	KeeperCgroup string
	// EventBuffer is the size of the ring buffer in bytes, rounded up to a power
	// of two; 0 means 1 MiB.
	EventBuffer uint32
}

// Listeners are our sockets in one network namespace. The zero AddrPort stands
// for none: what would go there is refused. Each must be marked before it is
// listed, else everything is refused as ForeignListener.
type Listeners struct {
	// TCP4 and TCP6 take captured connections, DNS4 and DNS6 datagrams to port 53.
	TCP4, TCP6, DNS4, DNS6 netip.AddrPort
	// Probe takes the self-probe's second connection, which the guard must refuse.
	Probe netip.AddrPort
}

// A DirectRule lets a flow pass without redirection.
type DirectRule struct {
	// Cgroup is the id of the cgroup it is for, tagged or up to three levels below
	// a tagged one, or the very cgroup that makes the socket; 0 is every tagged one.
	Cgroup uint64
	Prefix netip.Prefix
	// First and Last are the ports, both included.
	First, Last uint16
	Protocol    Protocol
	// Rule is the name for events, at most 127 bytes. The order of the rules decides
	// which of several names a flow gets.
	Rule string
}

// An InboundPort lets a cgroup answer connections from other hosts on a port.
// Connections from addresses of the namespace itself need none.
type InboundPort struct {
	// Cgroup as in DirectRule; 0 is every tagged one.
	Cgroup uint64
	Port   uint16
}

// A Probe is the self-probe's cgroup and the address that is rewritten, for its
// sockets alone, to Listeners.Probe of their namespace.
type Probe struct {
	Cgroup  uint64
	Blocked netip.AddrPort
}

// A Problem is one difference between what must be in place and what is.
type Problem struct {
	// What names the link or map entry, for example "connect4 on /mcp.slice".
	What string
	// Why says what was found.
	Why string
}

// String gives one line for status and log.
func (p Problem) String() string { return p.What + ": " + p.Why }
