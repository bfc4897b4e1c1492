// Package resolver is the DNS server of tagged workloads and the only source of
// addresses that the proxy dials.
//
// A question is judged by its name before anything leaves: an unlisted name is
// answered NXDOMAIN without asking anyone, since the question itself can carry
// data out. Answers are checked, cut down to what belongs to the question, and
// remembered per workload, so that the proxy can tell whether a dialled address
// belongs to a name.
package resolver

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"sallyport/pkg/policy"
)

var (
	// ErrNotFound says that a name has no address (NXDOMAIN, or no record of an
	// address type).
	ErrNotFound = errors.New("name has no address")
	// ErrUnavailable says that no upstream server gave a usable answer.
	ErrUnavailable = errors.New("no upstream DNS server answered")
	// ErrNoAsker is what an Asker returns when the kernel does not know who sent
	// a datagram; such a datagram is dropped and counted.
	ErrNoAsker = errors.New("sender of the DNS query is unknown")
)

// A Client is who asks: what the kernel says of the socket, never the packet.
type Client struct {
	// Workload is the name under which policy and memory know it.
	Workload string
	// Cgroup is the id of the cgroup that made the socket, Netns the cookie of
	// its network namespace.
	Cgroup, Netns uint64
	// Flow is the cookie of the socket.
	Flow uint64
	// PID and UID inform; 0 where unknown.
	PID, UID uint32
	// Source is the client's end, Server the address that it asked.
	Source, Server netip.AddrPort
}

// An Asker says who sent a datagram from src in the network namespace with the
// given cookie. It answers from memory and does not block for long. The error
// wraps ErrNoAsker where nobody is known.
type Asker interface {
	Asker(netns uint64, src netip.AddrPort) (Client, error)
}

// A Decision is what policy says about resolving a name.
type Decision struct {
	Verdict policy.Verdict
	Reason  policy.Reason
	Rule    string
	Mode    policy.Mode
	// Hint says how to allow it; it becomes the text of the extended error.
	Hint string
}

// A Decider judges names. The host is in lower case, in ASCII form, without a
// final dot.
type Decider interface {
	DecideName(workload, host string) Decision
}

// A Recorder takes the audit event of each question.
type Recorder interface {
	// Healthy gives an error while events cannot be written and must not be
	// lost: questions are then answered SERVFAIL and nothing is asked upstream.
	Healthy() error
	// RecordDNS is called before the answer is sent; on an error the workload
	// gets SERVFAIL instead. The event is the recorder's to keep.
	RecordDNS(*Event) error
}

// A Meter counts questions for the metrics.
type Meter interface {
	// Query counts one question of a workload; it is not called for datagrams
	// without an asker.
	Query(workload string, verdict policy.Verdict)
	// Dropped counts what was given no answer at all.
	Dropped(why Drop)
}

// A Drop says why a datagram or connection got no answer. The set is closed.
type Drop uint8

// The drops.
const (
	// DropNoAsker is a datagram whose sender the kernel does not know.
	DropNoAsker Drop = iota
	// DropNotAQuery is a packet that is no question: too short, or an answer.
	// Answering answers would let two servers talk to each other for ever.
	DropNotAQuery
	// DropOverload is a datagram beyond all that may be in work at once.
	DropOverload
	dropCount
)

var dropNames = [dropCount]string{DropNoAsker: "no_asker", DropNotAQuery: "not_a_query", DropOverload: "overload"}

// String gives the drop's name in metrics; it panics outside the set.
func (d Drop) String() string { return dropNames[d] }

// An Event is one question and what became of it.
type Event struct {
	// Time is when the question came, Duration until the answer was ready.
	Time     time.Time
	Duration time.Duration
	Client   Client
	Decision Decision
	// Name is the question's name without a final dot, Type the record type as
	// in a zone file ("AAAA", "TYPE4711").
	Name, Type string
	// Answers are the addresses, or the record data of the types that have a
	// short text form, at most maxEventAnswers.
	Answers []string
	// Rcode is the response code as in the registry, e.g. "NXDOMAIN".
	Rcode string
	// Error says why an answer is SERVFAIL, REFUSED or FORMERR; else empty.
	Error string
}

// A Figure tells how full a bounded thing is.
type Figure struct {
	// Name is the label `resource` of resource_entries and resource_capacity.
	Name              string
	Entries, Capacity int
}

// Options are what a Resolver needs. Askers, Names and Recorder are required.
type Options struct {
	Askers   Asker
	Names    Decider
	Recorder Recorder
	// Meter may be nil.
	Meter Meter
	// Upstreams are the servers to ask, in order. Empty: those of ResolvConf,
	// read anew when that file changes.
	Upstreams []netip.AddrPort
	// ResolvConf and Hosts are paths; empty: /etc/resolv.conf and /etc/hosts.
	ResolvConf, Hosts string
	// Limits of zero are the defaults.
	Limits Limits
}

// Limits bound what a Resolver holds and does at once.
type Limits struct {
	// InFlight is how many questions are in work at once (1024), and
	// InFlightPerWorkload how many of one workload (64). Beyond, the answer is
	// SERVFAIL, or none for a datagram where the sender is not even known yet.
	InFlight, InFlightPerWorkload int
	// Cache is how many record sets are kept for Lookup (4096). When it is full
	// the one not used for longest is dropped and asked for again.
	Cache int
	// Workloads, Names and NamesPerWorkload bound what is remembered (1024;
	// 65536; 2048). When full, the oldest names of the largest workload are
	// forgotten: a connection to such an address then has no name, so that only
	// `cidrs` match it, and the proxy resolves a name that it is given again.
	Workloads, Names, NamesPerWorkload int
	// Timeout is how long one server has for one answer (2 s), Total all of them
	// together (5 s).
	Timeout, Total time.Duration
}

// Lookuper is the part of a Resolver that the proxy uses.
type Lookuper interface {
	// Lookup gives the addresses of host for a workload, those that the workload
	// was told among them; never empty without an error, which wraps ErrNotFound
	// or ErrUnavailable. Whether the workload may resolve the name is the
	// caller's question: Lookup asks upstream.
	Lookup(ctx context.Context, workload, host string) ([]netip.Addr, error)
	// Name gives the name that this workload was last told an address for, ""
	// and false if none.
	Name(workload string, addr netip.Addr) (string, bool)
}
