package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"syscall"

	"sallyport/pkg/audit"
	"sallyport/pkg/origin"
	"sallyport/pkg/workload"
)

// Origin says where an accepted connection really wanted to go; *origin.Reader
// is one. Any error closes the connection: an origin is never guessed.
type Origin interface {
	Flow(syscall.Conn) (origin.Flow, error)
}

// Identities name the workload of a flow by the cgroup that made its socket.
// exe is the executable of the process, "" where it is not known. An error
// closes the connection.
type Identities interface {
	Identify(ctx context.Context, flow *origin.Flow) (id workload.Identity, exe string, err error)
}

// Resolver is the only source of addresses of a name; *resolver.Resolver is
// one. Whether a workload may resolve a name is asked before Lookup.
type Resolver interface {
	Lookup(ctx context.Context, workload, host string) ([]netip.Addr, error)
	// Name gives the name that this workload was last told an address for.
	Name(workload string, addr netip.Addr) (string, bool)
}

// DNS serves one connection to port 53 to its end, and closes it.
type DNS func(ctx context.Context, conn *net.TCPConn, flow *origin.Flow, id *workload.Identity)

// Probe gives what to answer to a flow of the self-probe, nil for any other.
type Probe func(flow *origin.Flow) []byte

// Leaves give the certificate for a name or an address as text; *ca.Leaves is
// one.
type Leaves interface {
	Certificate(name string) (*tls.Certificate, error)
}

// Audit takes events; *audit.Log is one.
type Audit interface {
	// Healthy gives an error while nothing may be admitted.
	Healthy() error
	NextID() string
	// Record keeps nothing of the event.
	Record(*audit.Event)
}

// Own knows the host's and our own addresses.
type Own interface {
	// Host reports whether an address is one of the host's.
	Host(netip.Addr) bool
	// Listener reports whether we listen there ourselves.
	Listener(netip.AddrPort) bool
	// Elsewhere reports whether an address is local to the network namespace with
	// this cookie and that namespace is not ours: dialled from here it would be
	// another one.
	Elsewhere(netns uint64, a netip.Addr) bool
}
