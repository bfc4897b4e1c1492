package guard

import (
	"fmt"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A ruleset is the whole content of the table: what build wants, and what the
// kernel is compared with.
type ruleset struct {
	flags    uint32 // of the table
	counters []string
	sets     []set
	chains   []chain
}

// A chain is a list of rules; a base chain has a hook.
type chain struct {
	name  string
	kind  nftables.ChainType // filter, where nothing else is said
	hook  *nftables.ChainHook
	at    nftables.ChainPriority // priority, where nothing else is said
	rules []rule
}

// family is the chain's type.
func (c chain) family() nftables.ChainType {
	if c.kind == "" {
		return nftables.ChainTypeFilter
	}
	return c.kind
}

// priority is the chain's place among those of its hook.
func (c chain) priority() nftables.ChainPriority {
	if c.at == 0 {
		return priority
	}
	return c.at
}

// A rule has a comment, which `nft list table` shows, and a body.
type rule struct {
	comment string
	body    []expr.Any
}

// A set has keys of one type. An interval set takes boxes of concatenated
// fields. A counting set counts, for each element, the look-ups that found it.
type set struct {
	name     string
	id       uint32 // within a batch; the library's own numbering is not safe for concurrent use
	comment  string
	key      nftables.SetDatatype
	interval bool
	counting bool
	capacity int
	elements []element
}

// How many elements the kernel takes for each set; more is an error of Apply.
const (
	localCapacity   = 256
	taggedCapacity  = 8192
	inboundCapacity = 16384
	directCapacity  = 32768
)

// Names of counters. The reasons are those of Counters.
const (
	countTCP      = "refused_tcp"
	countUDP      = "refused_udp"
	countOther    = "refused_other"
	countInbound  = "refused_inbound"
	countRerouted = "refused_rerouted"
)

// reasons lists the counters.
func reasons() []string {
	return []string{countTCP, countUDP, countOther, countInbound, countRerouted, countForeign}
}

// Names of chains and sets; those of a level have it as suffix.
const (
	chainRefuse     = "refuse"
	chainNeighbours = "neighbours"
	chainSYN        = "syn"

	taggedName  = "tagged_"
	refusedName = "refused_"
	droppedName = "dropped_"
	inboundName = "inbound_"
	directName  = "direct"
	localName   = "local"
)

// build gives the table for a state. It is pure: equal states give equal
// rulesets, whatever the order of their lists.
func build(s State) (ruleset, error) {
	levels, err := s.levels()
	if err != nil {
		return ruleset{}, err
	}
	sets, err := buildSets(s, levels)
	if err != nil {
		return ruleset{}, err
	}
	depths := depths(levels)
	r := ruleset{
		counters: reasons(),
		sets:     sets,
		chains:   []chain{refuseChain(), neighbourChain()},
	}
	for _, level := range depths {
		r.chains = append(r.chains, taggedChain(level, s.Redirect != nil), inboundChain(level))
	}
	if s.Redirect != nil {
		r.chains = append(r.chains, arriveChain(s.Redirect), zoneChain(depths, s.Redirect.Zone))
		r.chains = append(r.chains, redirectChains(depths, &s)...)
	}
	r.chains = append(r.chains, synChain(depths), outputChain(depths), inputChain(s.Redirect != nil), postroutingChain())
	return r, nil
}

// named gives the name of what belongs to a level.
func named(prefix string, level int) string { return prefix + strconv.Itoa(level) }

// outputChain sends the packets of tagged sockets to the chain of their level.
func outputChain(depths []int) chain {
	c := chain{name: "output", hook: nftables.ChainHookOutput}
	for _, level := range depths {
		c.rules = append(c.rules, rule{
			"tagged workloads",
			concat(cgroupIn(level, named(taggedName, level)), goTo(named(taggedName, level))),
		})
	}
	return c
}

// taggedChain lets through what a tagged socket may send and refuses the rest.
func taggedChain(level int, redirected bool) chain {
	c := chain{name: named(taggedName, level)}
	add := func(comment string, pieces ...match) {
		c.rules = append(c.rules, rule{comment, concat(pieces...)})
	}
	add("IP options can name a source route", hasOptions(), goTo(chainRefuse))
	// What NAT has sent elsewhere still shows the interface of before, in this
	// hook; the last chain looks at the one that it really leaves by.
	way := leavesByLoopback()
	if redirected {
		way = wasRedirected()
	}
	for _, v := range forms() {
		add("our listeners and resolvers", way, v.destinationIn(localName+v.suffix), accept())
		add("direct, for each workload", v.destinationIn(directName+v.suffix), accept())
		add("direct, for this workload", v.cgroupDestinationIn(level, named(directName+v.suffix+"_", level)), accept())
		// A bare SYN begins a connection and answers none, whatever entry
		// conntrack still has for its addresses.
		add("answers on connections that may come in",
			v.tcp(), flags(tcpACK, tcpACK), direction(ctDirectionReply), hasLabel(), accept())
	}
	add("the kernel itself", icmp6(), jump(chainNeighbours))
	add("count for this workload", cgroupIn(level, named(refusedName, level)))
	add("", goTo(chainRefuse))
	return c
}

// refuseChain counts and rejects what comes to it.
func refuseChain() chain {
	return chain{name: chainRefuse, rules: []rule{
		{"refused", concat(transport(unix.IPPROTO_TCP), count(countTCP), reset())},
		{"refused", concat(transport(unix.IPPROTO_UDP), count(countUDP), prohibited())},
		{"refused", concat(count(countOther), prohibited())},
	}}
}

// neighbourChain lets neighbour discovery through that the kernel itself does. Its
// sockets belong to the cgroup of the process that made the network namespace
// (inet_ctl_sock_create), which can be a tagged one. No file refers to them: what
// a program sends, also on a raw socket, comes from one with a file.
func neighbourChain() chain {
	c := chain{name: chainNeighbours, rules: []rule{{"a program's own", concat(held(), goBack())}}}
	for _, kind := range neighbourMessages() {
		c.rules = append(c.rules, rule{"neighbour discovery", concat(icmp6Type(kind), accept())})
	}
	return c
}

// inputChain finds the segments that begin a connection. Linux begins none for a
// SYN with RST or ACK, whatever the other flags are.
func inputChain(redirected bool) chain {
	c := chain{name: "input", hook: nftables.ChainHookInput}
	if redirected {
		c.rules = arrivalRules()
	}
	c.rules = append(c.rules, rule{
		"connections that come in",
		concat(transport(unix.IPPROTO_TCP), flags(tcpSYN|tcpRST|tcpACK, tcpSYN), goTo(chainSYN)),
	})
	return c
}

// synChain sends the SYN for a tagged listener to the chain of its level. In
// input nft_socket looks the listener up by the packet's addresses.
func synChain(depths []int) chain {
	c := chain{name: chainSYN}
	for _, level := range depths {
		c.rules = append(c.rules, rule{
			"listeners of tagged workloads",
			concat(cgroupIn(level, named(taggedName, level)), goTo(named(inboundName, level))),
		})
	}
	return c
}

// inboundChain labels the connections that a tagged listener may answer and
// drops the others: no answer at all. A packet without conntrack entry cannot be
// labelled and is dropped too, since its answers would be refused.
func inboundChain(level int) chain {
	set := named(inboundName, level)
	port := match{loadCgroup(level, 0), loadTransport(thDestination, 2, cgroupWords), in(set)}
	return chain{name: named(inboundName, level), rules: []rule{
		{"from this namespace", concat(cameByLoopback(), fromHere(), direction(ctDirectionOriginal), setLabel(), accept())},
		{"to a port that may answer", concat(port, direction(ctDirectionOriginal), setLabel(), accept())},
		{"count for this workload", cgroupIn(level, named(droppedName, level))},
		{"no answer", concat(count(countInbound), drop())},
	}}
}

// postroutingChain drops what is addressed to our listeners and yet leaves by
// another interface: in output, nftables still sees the interface of before
// another table's rerouting.
func postroutingChain() chain {
	c := chain{name: "postrouting", hook: nftables.ChainHookPostrouting}
	for _, v := range forms() {
		c.rules = append(c.rules, rule{
			"our listeners are on lo",
			concat(leavesElsewhere(), v.destinationIn(localName+v.suffix), count(countRerouted), drop()),
		})
	}
	return c
}

// concat makes one rule body of pieces.
func concat(pieces ...match) []expr.Any {
	var body []expr.Any
	for _, p := range pieces {
		body = append(body, p...)
	}
	return body
}

// buildSets gives the sets with their elements.
func buildSets(s State, levels map[uint64]int) ([]set, error) {
	b := newSetBuilder(depths(levels))
	if s.Redirect != nil {
		if err := s.Redirect.check(); err != nil {
			return nil, err
		}
		for _, level := range s.Redirect.receiverLevels() {
			b.define(set{name: named(receiverName, level), comment: "whose listeners are ours", capacity: receiverCapacity, key: nftables.TypeCGroupV2})
		}
		for _, c := range s.Redirect.Receivers {
			b.add(named(receiverName, c.Level), tagged(c.ID))
		}
	}
	for _, a := range s.Listeners {
		if err := b.addLocal("listener", TCP, a); err != nil {
			return nil, err
		}
	}
	for _, a := range s.Resolvers {
		if err := b.addLocal("resolver", UDP, a); err != nil {
			return nil, err
		}
	}
	for id, level := range levels {
		b.add(named(taggedName, level), tagged(id))
		b.add(named(refusedName, level), tagged(id))
		b.add(named(droppedName, level), tagged(id))
	}
	for _, in := range s.Inbound {
		level, ok := levels[in.Cgroup]
		if !ok {
			return nil, fmt.Errorf("inbound port %d: cgroup %d is not tagged", in.Port, in.Cgroup)
		}
		b.add(named(inboundName, level), inbound(in))
	}
	direct := make([]Direct, 0, len(s.Direct))
	for _, d := range s.Direct {
		d, err := d.normal(levels)
		if err != nil {
			return nil, err
		}
		direct = append(direct, d)
	}
	for _, box := range disjoint(direct) {
		name := directName + suffix(box.prefix.Addr())
		if box.cgroup != 0 {
			name = named(name+"_", levels[box.cgroup])
		}
		b.add(name, box.element())
	}
	return b.finish()
}
