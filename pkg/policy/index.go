package policy

import (
	"encoding/binary"
	"math"
	"strings"

	"sallyport/pkg/policy/pattern"
)

// A candidate is a rule as the index has it, with what most often tells that
// the rule does not match, so that hundreds of rules on one host stay in a few
// cache lines.
type candidate struct {
	rule int32
	// set is the rule's workloads.
	set int32
	// prefix is what the path begins with where it can be read in one way only:
	// as many of its first eight bytes as mask says.
	prefix, mask uint64
	// first and last are the lowest and highest port of the rule.
	first, last uint16
	// methods and protocols are those with which the rule may match.
	methods   uint16
	protocols protocolSet
	hasPaths  bool
}

// scan gives the next of the candidates, from i on, whose rule needs to be
// looked at; len(list) where there is none.
func (a *asked) scan(list []candidate, i int) int {
	methods, protocols, port := a.methods, a.protocols, a.port
	for ; i < len(list); i++ {
		k := &list[i]
		if k.methods&methods == 0 || k.protocols&protocols == 0 || port < k.first || port > k.last {
			continue
		}
		// The set of a rule for all workloads is -1, beyond those that are kept.
		if s := uint32(k.set); s < keptSets && a.misses[s/64]>>(s%64)&1 != 0 {
			continue
		}
		if k.hasPaths && a.elsewhere(k) || !a.inSet(k.set) {
			continue
		}
		return i
	}
	return i
}

// elsewhere reports whether the path begins otherwise than the rule's paths.
func (a *asked) elsewhere(k *candidate) bool {
	if !a.ready {
		a.begin()
	}
	return a.plain && a.first&k.mask != k.prefix
}

func newCandidate(i int, r *rule) candidate {
	k := candidate{rule: int32(i), set: r.set, last: math.MaxUint16, methods: r.methods.bits | noRequest, protocols: r.protocols, hasPaths: len(r.paths) > 0}
	if r.needsRequest && r.allow {
		// Without a request an allow rule that looks at it cannot match.
		k.methods &^= noRequest
	}
	if r.protocols&(HTTP.bit()|HTTPS.bit()|TLS.bit()) != 0 {
		// What was not sniffed yet may turn out to be any of them.
		k.protocols |= AnyTCP.bit()
	}
	if len(r.ports) > 0 {
		k.first, k.last = math.MaxUint16, 0
		for _, p := range r.ports {
			k.first, k.last = min(k.first, p.First), max(k.last, p.Last)
		}
	}
	if k.hasPaths {
		common := r.paths[0].Prefix()
		for j := range r.paths[1:] {
			common = commonPrefix(common, r.paths[1+j].Prefix())
		}
		k.prefix, k.mask = begin(common)
	}
	return k
}

// begin gives the first eight bytes of s and a mask of how many there are.
func begin(s string) (first, mask uint64) {
	var b [8]byte
	n := copy(b[:], s)
	first = binary.LittleEndian.Uint64(b[:])
	if n == 8 {
		return first, math.MaxUint64
	}
	return first, 1<<(8*n) - 1
}

func commonPrefix(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// A hostIndex finds the rules that may match a host, in order.
type hostIndex struct {
	nodes map[string]*hostNode
	// named are the rules with the pattern "*", unnamed those without hosts.
	named, unnamed []candidate
}

// A hostNode holds the rules for one name and for what lies below it.
type hostNode struct {
	exact, below []candidate
}

func (p *Policy) index() {
	x := &p.hosts
	x.nodes = make(map[string]*hostNode)
	p.all = make([]candidate, len(p.rules))
	for i := range p.rules {
		r := &p.rules[i]
		k := newCandidate(i, r)
		p.all[i] = k
		if len(r.hosts) == 0 {
			x.unnamed = append(x.unnamed, k)
		}
		for _, h := range r.hosts {
			list := &x.named
			if h.Name != "" {
				n := x.nodes[h.Name]
				if n == nil {
					n = &hostNode{}
					x.nodes[h.Name] = n
				}
				if list = &n.exact; h.Wildcard {
					list = &n.below
				}
			}
			if l := *list; len(l) == 0 || l[len(l)-1].rule != k.rule {
				*list = append(l, k)
			}
		}
	}
}

// A cursor walks several lists of candidates as if they were one, in the order
// of the file. A rule that is in more than one comes more than once.
type cursor struct {
	lists [8][]candidate
	// more holds the lists of a host with more levels of wildcards than that.
	more [][]candidate
	n    int
}

func (c *cursor) add(list []candidate) {
	switch {
	case len(list) == 0:
	case c.n < len(c.lists):
		c.lists[c.n] = list
		c.n++
	default:
		c.more = append(c.more, list)
	}
}

// candidates starts a walk over the rules that may match the host; with "" over
// those without hosts.
func (x *hostIndex) candidates(c *cursor, host string) {
	c.add(x.unnamed)
	if host == "" {
		return
	}
	if n := x.nodes[host]; n != nil {
		c.add(n.exact)
	}
	if pattern.IsAddress(host) {
		return
	}
	c.add(x.named)
	for rest := host; ; {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return
		}
		rest = after
		if n := x.nodes[rest]; n != nil {
			c.add(n.below)
		}
	}
}

// next gives the candidates that come next, as many as stand together in one
// list; nil at the end.
func (c *cursor) next() []candidate {
	if c.n == 0 {
		return nil
	}
	best, bound := &c.lists[0], int32(math.MaxInt32)
	if c.n > 1 || c.more != nil {
		best, bound = c.lowest()
	}
	list := *best
	end := len(list)
	if end == 0 {
		return nil
	}
	if list[end-1].rule > bound {
		for end = 1; list[end].rule <= bound; end++ {
		}
	}
	*best = list[end:]
	return list[:end]
}

// lowest gives the list whose first rule comes first, and the first rule of all
// other lists.
func (c *cursor) lowest() (best *[]candidate, bound int32) {
	first := int32(math.MaxInt32)
	bound = math.MaxInt32
	best = &c.lists[0]
	visit := func(l *[]candidate) {
		if len(*l) == 0 {
			return
		}
		switch r := (*l)[0].rule; {
		case r < first:
			best, first, bound = l, r, first
		case r < bound:
			bound = r
		}
	}
	for i := range c.n {
		visit(&c.lists[i])
	}
	for i := range c.more {
		visit(&c.more[i])
	}
	return best, bound
}
