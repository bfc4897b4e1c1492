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
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

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
	// ByProxy says that connections to the name may leave by an upstream proxy, or
	// go to targets in its place: it is not resolved here, and an address is
	// answered that stands for it.
	ByProxy bool
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
func (d Drop) String() string {
	if d >= dropCount {
		panic(fmt.Sprintf("resolver: Drop(%d) is not in the closed set", uint8(d)))
	}
	return dropNames[d]
}

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
	// Original asks the server that the workload asked before the others, by a
	// connection that Dial opens. Dial decides which servers may be asked so: an
	// error of it means the next one.
	Original bool
	Dial     Dialer
	// ResolvConf and Hosts are paths; empty: /etc/resolv.conf and /etc/hosts.
	ResolvConf, Hosts string
	// Limits of zero are the defaults.
	Limits Limits
}

// Limits bound what a Resolver holds and does at once.
type Limits struct {
	// InFlight is how many questions are in work at once (1024), and
	// InFlightPerWorkload how many of one workload (256: a browser or `curl -Z` asks for
	// 50 names at once, with two questions each). Beyond, the answer is
	// SERVFAIL, or none for a datagram where the sender is not even known yet.
	InFlight, InFlightPerWorkload int
	// Cache is how many record sets are kept for Lookup (4096). When it is full
	// the one not used for longest is dropped and asked for again.
	Cache int
	// Workloads, Addresses and AddressesPerWorkload bound what is remembered of
	// what workloads were told (1024; 65536; 4096 pairs of name and address). When
	// full, the pairs told longest ago are forgotten, of the same workload or of
	// the one that has most: a connection to such an address then has no name, so
	// that only `cidrs` match it, and a name that the proxy is given is resolved
	// again.
	Workloads, Addresses, AddressesPerWorkload int
	// Standins and StandinsPerWorkload bound the addresses that stand for names
	// which leave by an upstream proxy (65536; 4096). When full, one is taken back
	// that was not told for two minutes and that no flow uses; where there is none
	// the answer is SERVFAIL.
	Standins, StandinsPerWorkload int
	// Timeout is how long one server has for one answer (2 s), Total all of them
	// together (5 s).
	Timeout, Total time.Duration
}

// defaults fills in what is zero.
func (l Limits) defaults() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.InFlight, 1024)
	set(&l.InFlightPerWorkload, 256)
	set(&l.Cache, 4096)
	set(&l.Workloads, 1024)
	set(&l.Addresses, 65536)
	set(&l.AddressesPerWorkload, 4096)
	set(&l.Standins, 65536)
	set(&l.StandinsPerWorkload, 4096)
	if l.Timeout <= 0 {
		l.Timeout = 2 * time.Second
	}
	if l.Total <= 0 {
		l.Total = 5 * time.Second
	}
	return l
}

// A Resolver answers workloads and the proxy. It is safe for concurrent use.
type Resolver struct {
	// yielding says that another process answers further questions.
	yielding atomic.Bool
	askers   Asker
	names    Decider
	recorder Recorder
	meter    Meter
	limits   Limits

	hosts     *watchedFile[hostsTable]
	upstreams *upstreams
	slots     *slots
	memory    *memory
	standins  *standins
	reserved  atomic.Bool
	cache     *lru.Cache[cacheKey, cached]
	original  *original
	flight    singleflight.Group
	now       func() time.Time
}

// New makes a Resolver; it opens and starts nothing.
func New(o Options) (*Resolver, error) {
	if o.Askers == nil || o.Names == nil || o.Recorder == nil {
		return nil, errors.New("resolver: askers, names and recorder are required")
	}
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Hosts == "" {
		o.Hosts = "/etc/hosts"
	}
	limits := o.Limits.defaults()
	cache, err := lru.New[cacheKey, cached](limits.Cache)
	if err != nil {
		return nil, fmt.Errorf("resolver cache: %w", err)
	}
	original, err := newOriginal(o.Original, o.Dial, limits.Workloads)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	return &Resolver{
		original: original,
		askers:   o.Askers, names: o.Names, recorder: o.Recorder, meter: o.Meter, limits: limits,
		hosts:     newWatchedFile(o.Hosts, parseHosts),
		upstreams: newUpstreams(o.Upstreams, o.ResolvConf, limits),
		slots:     newSlots(limits.InFlight, limits.InFlightPerWorkload),
		memory:    newMemory(limits.Workloads, limits.Addresses, limits.AddressesPerWorkload),
		standins:  newStandins(limits.Standins, limits.StandinsPerWorkload),
		cache:     cache,
		now:       time.Now,
	}, nil
}

// Run forgets what is too old until ctx ends, then returns nil.
func (r *Resolver) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.memory.sweep(r.now())
			r.standins.sweep(r.now())
		}
	}
}

// Figures tells how full each bounded thing is.
func (r *Resolver) Figures() []Figure {
	workloads, pairs := r.memory.size()
	return []Figure{
		{Name: "dns_in_flight", Entries: r.slots.used(), Capacity: r.limits.InFlight},
		{Name: "dns_cache", Entries: r.cache.Len(), Capacity: r.limits.Cache},
		{Name: "dns_workloads", Entries: workloads, Capacity: r.limits.Workloads},
		{Name: "dns_names", Entries: pairs, Capacity: r.limits.Addresses},
		{Name: "dns_standins", Entries: r.standins.size(), Capacity: r.standins.max},
	}
}

// SetUpstreams changes whom further questions go to, after a reload of the
// configuration; none means the servers of resolv.conf, and original is that of
// Options. Answers that came from
// others are not used again for Lookup; what workloads were told stays.
func (r *Resolver) SetUpstreams(servers []netip.AddrPort, original bool) {
	r.upstreams.set(servers)
	r.original.on.Store(original)
	r.cache.Purge()
}

type noMeter struct{}

func (noMeter) Query(string, policy.Verdict) {}
func (noMeter) Dropped(Drop)                 {}
