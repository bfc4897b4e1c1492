package policy

import (
	"net/netip"

	"sallyport/pkg/policy/address"
	"sallyport/pkg/policy/condition"
	"sallyport/pkg/policy/pattern"
)

// An outcome is what comparing a rule with a query gives.
type outcome uint8

const (
	fails outcome = iota
	holds
	// unknown: whether it matches depends on what is not known.
	unknown
	// ambiguous: the rule's other keys hold and the path must not be compared.
	ambiguous
	// broken: the rule's other keys hold and its condition gives no answer.
	broken
)

// A key is a part of a rule's match.
type key uint8

const (
	noKey key = iota
	portsKey
	protocolsKey
	workloadsKey
	hostsKey
	cidrsKey
	// unjudgedKey stands for cidrs of a name that a proxy resolves.
	unjudgedKey
	methodsKey
	headersKey
	pathsKey
	whenKey
	requestKey
)

// asked is a question with what was found out about it on the way. It has no
// pointer to the query, so that neither goes to the heap.
type asked struct {
	workload string
	host     string
	addrs    []netip.Addr
	http     *HTTPQuery
	who      *Who
	port     uint16
	protocol Protocol
	byProxy  bool
	// fault is what was wrong with the condition of a broken rule.
	fault string
	// unresolved is set when a rule with cidrs was looked at and no address is
	// known.
	unresolved bool

	// protocols has the bit of the protocol; method that of the method as it is
	// written; methods also that of the method in upper case, or noRequest.
	protocols       protocolSet
	method, methods uint16
	// folded is the method in upper case where that matters.
	folded string
	// path is ready after begin; plain where it can be read in one way only;
	// first are the first eight bytes of its key.
	ready, plain bool
	first        uint64
	path         pattern.RequestPath
	sets         []workloadSet
	// hits and misses have a bit for each of the first sets of workloads that
	// was compared.
	hits, misses [keptSets / 64]uint64
}

// keptSets is for how many sets of workloads the comparison is kept.
const keptSets = 128

// ask starts a question; http is the request to look at, if any.
func (p *Policy) ask(a *asked, q *Query, http *HTTPQuery) {
	a.workload, a.host, a.addrs, a.port, a.protocol = q.Workload, q.Host, q.Addrs, q.Port, q.Protocol
	a.byProxy, a.who = q.ByProxy, q.Who
	a.http, a.protocols, a.sets = http, q.Protocol.bit(), p.sets
	if http == nil {
		a.methods = noRequest
		return
	}
	a.method = methodBit(http.Method)
	a.methods = a.method
	if a.method == otherMethod {
		a.folded = folded(http.Method)
		a.methods |= methodBit(a.folded)
	}
}

// begin makes the path ready.
func (a *asked) begin() {
	a.ready = true
	if a.http != nil {
		a.path = pattern.NormalisePath(a.http.Path)
		a.plain = a.path.Plain()
		a.first, _ = begin(a.path.Key())
	}
}

// forward gives the path to send upstream.
func (a *asked) forward() string {
	switch {
	case a.http == nil:
		return ""
	case a.ready:
		return a.path.Forward()
	default:
		return a.http.Path
	}
}

// inSet reports whether the set has the question's workload.
func (a *asked) inSet(set int32) bool {
	if set < 0 {
		return true
	}
	s := uint32(set)
	if s >= keptSets {
		return a.sets[set].match(a.workload)
	}
	word, bit := s/64, uint64(1)<<(s%64)
	switch {
	case a.hits[word]&bit != 0:
		return true
	case a.misses[word]&bit != 0:
		return false
	case a.sets[set].match(a.workload):
		a.hits[word] |= bit
		return true
	default:
		a.misses[word] |= bit
		return false
	}
}

// check compares a rule, whose hosts hold, with the query. The key tells which
// one failed or is not known. Paths come late: a path that must not be compared
// refuses only where all other keys hold. Conditions come last, as they cost most.
func (p *Policy) check(r *rule, a *asked) (outcome, key) {
	out, why := p.checkConn(r, a)
	if out == fails || !r.needsRequest {
		return out, why
	}
	if a.http == nil {
		// Whether its request would match cannot be told.
		return unknown, requestKey
	}
	if out == unknown && r.allow {
		return out, why
	}
	if !r.matchesMethod(a) {
		return fails, methodsKey
	}
	if !r.matchesHeaders(a.http.Header) {
		return fails, headersKey
	}
	if len(r.paths) > 0 {
		a.begin()
		if a.path.Ambiguous() != "" {
			out, why = ambiguous, pathsKey
		} else if !r.matchesPath(a) {
			return fails, pathsKey
		}
	}
	if r.when == nil {
		return out, why
	}
	held, err := r.when.Holds(a.variables())
	switch {
	case err != nil:
		// It can be told neither that the rule matches nor that it does not.
		a.fault = err.Error()
		return broken, whenKey
	case !held:
		return fails, whenKey
	default:
		return out, why
	}
}

// variables are what a condition may look at.
func (a *asked) variables() *condition.Variables {
	a.begin()
	v := &condition.Variables{
		Method: a.http.Method, Path: a.forward(), Ambiguous: a.path.Ambiguous(), RawQuery: a.http.RawQuery, Host: a.host, HTTPS: a.protocol == HTTPS, Port: a.port,
		Workload: a.workload, Addrs: a.addrs,
	}
	if a.http.Header != nil {
		v.Fields = a.http.Header.Fields
	}
	if w := a.who; w != nil {
		v.Unit, v.Container, v.Cgroup, v.UID = w.Unit, w.Container, w.Cgroup, w.UID
	}
	return v
}

// checkConn compares what is known of a rule before any request.
func (p *Policy) checkConn(r *rule, a *asked) (outcome, key) {
	if !r.matchesPort(a.port) {
		return fails, portsKey
	}
	out, why := holds, noKey
	if r.protocols&a.protocols == 0 {
		if a.protocol != AnyTCP || r.protocols&anyTCP == 0 {
			return fails, protocolsKey
		}
		out, why = unknown, protocolsKey
	}
	if !a.inSet(r.set) {
		return fails, workloadsKey
	}
	// Where targets stand in for the host, it is their addresses that must lie
	// in the cidrs (Permits).
	if len(r.cidrs) > 0 && r.upstream == "" {
		switch {
		case p.unjudged(r, a):
			if r.allow {
				return fails, unjudgedKey
			}
		case len(a.addrs) == 0:
			a.unresolved = true
			out, why = unknown, cidrsKey
		case !r.matchesAddress(a.addrs):
			return fails, cidrsKey
		}
	}
	return out, why
}

func (r *rule) matchesPort(port uint16) bool {
	for _, p := range r.ports {
		if p.Contains(port) {
			return true
		}
	}
	return len(r.ports) == 0
}

func (r *rule) matchesHost(host string) bool {
	for _, h := range r.hosts {
		if h.Match(host) {
			return true
		}
	}
	return len(r.hosts) == 0
}

// matchesAddress reports whether one of the addresses lies in the rule's cidrs;
// for a deny rule also whether one embeds such an address.
func (r *rule) matchesAddress(addrs []netip.Addr) bool {
	for _, addr := range addrs {
		addr = addr.Unmap()
		if r.hasAddress(addr) {
			return true
		}
		if r.allow {
			continue
		}
		embedded, n := address.Embedded(addr)
		for _, e := range embedded[:n] {
			if r.hasAddress(e) {
				return true
			}
		}
	}
	return false
}

func (r *rule) hasAddress(addr netip.Addr) bool {
	for _, p := range r.cidrs {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// matchesMethod compares as written for an allow rule, and in any case for a
// deny rule.
func (r *rule) matchesMethod(a *asked) bool {
	if r.methods.match(a.http.Method, a.method) {
		return true
	}
	return !r.allow && a.folded != "" && r.methods.match(a.folded, methodBit(a.folded))
}

// matchesHeaders holds when each field is there and, for an allow rule, all its
// values match, for a deny rule any of them.
func (r *rule) matchesHeaders(fields HeaderFields) bool {
	for i := range r.headers {
		h := &r.headers[i]
		if fields == nil {
			return false
		}
		matched, n := 0, 0
		for ; ; n++ {
			value, ok := fields.HeaderValue(h.Name, n)
			if !ok {
				break
			}
			if h.Values.Match(value) {
				matched++
			}
		}
		if matched == 0 || r.allow && matched < n {
			return false
		}
	}
	return true
}

func (r *rule) matchesPath(a *asked) bool {
	for i := range r.paths {
		if r.allow && r.paths[i].MatchesAll(&a.path) || !r.allow && r.paths[i].MatchesAny(&a.path) {
			return true
		}
	}
	return false
}
