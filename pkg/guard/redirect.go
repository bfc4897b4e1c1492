package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A Redirect makes the table capture connections itself, where no BPF program
// does: TCP of tagged sockets, whatever port, goes to our listener, and UDP to
// port 53 to our resolver, on the loopback address of its family. Where there is
// no listener of a family, or the packet has IP options or extension headers,
// nothing is redirected and the guard refuses.
type Redirect struct {
	// Zone is the conntrack zone of the datagrams that tagged sockets send (1 to
	// 65535): the entry that redirects them, which outlives their socket, decides
	// about nobody else's from the same port. Answers are in the zone that everybody
	// is in. TCP has none: the kernel answers by itself for sockets that are closed
	// (in TIME_WAIT, or with a RST), no rule sees whose those segments are, and with
	// a zone they would miss the entry and leave the host. A SYN replaces the entry
	// of a connection that has ended.
	Zone uint16
	// Receivers are the cgroups that made our listeners and resolvers: what was
	// redirected arrives at no others. When ours are gone, whoever binds their
	// ports gets nothing.
	Receivers []Cgroup
	// Probe is not redirected, so that the guard must refuse it.
	Probe Unredirected
}

// An Unredirected is TCP of one cgroup to one address.
type Unredirected struct {
	Cgroup Cgroup
	To     netip.AddrPort
}

// Names and priorities of the chains and sets of a Redirect.
const (
	chainZone     = "zone"
	chainRedirect = "capture"
	chainArrive   = "arrive"
	redirectName  = "capture_"
	receiverName  = "receivers_"
	countForeign  = "refused_foreign_listener"

	// priorityZone is before everything that could have an opinion of conntrack's:
	// raw tables are at -300 (NF_IP_PRI_RAW); -400 puts fragments together.
	priorityZone nftables.ChainPriority = -399
	// priorityRedirect is the first that a NAT chain may have (nf_tables refuses
	// NF_IP_PRI_CONNTRACK, -200, and below): of several the first one decides.
	priorityRedirect nftables.ChainPriority = -199

	receiverCapacity = 16
	portDNS          = 53
)

// check refuses what cannot be enforced as written.
func (r *Redirect) check() error {
	if r.Zone == 0 {
		return errors.New("redirect: zone 0 is everybody's")
	}
	if len(r.Receivers) == 0 {
		return errors.New("redirect: nobody receives")
	}
	for _, c := range append([]Cgroup{r.Probe.Cgroup}, r.Receivers...) {
		if c == (Cgroup{}) {
			continue
		}
		if c.ID == 0 || c.Level < 1 || c.Level > maxLevel {
			return fmt.Errorf("redirect: cgroup %d at level %d", c.ID, c.Level)
		}
	}
	return nil
}

// receiverLevels lists the levels of the receivers, deepest first.
func (r *Redirect) receiverLevels() []int {
	levels := map[uint64]int{}
	for _, c := range r.Receivers {
		levels[c.ID] = c.Level
	}
	return depths(levels)
}

// zoneChain gives the datagrams of tagged sockets a conntrack zone of their own.
func zoneChain(levels []int, zone uint16) chain {
	c := chain{name: chainZone, hook: nftables.ChainHookOutput, at: priorityZone}
	for _, level := range levels {
		c.rules = append(c.rules, rule{"tagged workloads", concat(transport(unix.IPPROTO_UDP), cgroupIn(level, named(taggedName, level)), setZone(zone), accept())})
	}
	return c
}

// redirectChains send what begins a connection to our listeners. NAT is asked
// once for each connection, by its first packet.
func redirectChains(levels []int, s *State) []chain {
	base := chain{name: chainRedirect, kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, at: priorityRedirect}
	if p := s.Redirect.Probe; p.Cgroup.ID != 0 {
		v := versions()[0]
		if !p.To.Addr().Is4() {
			v = versions()[1]
		}
		base.rules = append(base.rules, rule{"the self-probe, for the guard to refuse", concat(
			match{loadCgroup(p.Cgroup.Level, 0), equal(key(nil).cgroup(p.Cgroup.ID)...)},
			v.destinationIs(TCP, p.To), accept(),
		)})
	}
	chains := []chain{}
	for _, level := range levels {
		base.rules = append(base.rules, rule{
			"tagged workloads",
			concat(cgroupIn(level, named(taggedName, level)), goTo(named(redirectName, level))),
		})
		chains = append(chains, levelRedirectChain(level, s))
	}
	return append(chains, base)
}

func levelRedirectChain(level int, s *State) chain {
	c := chain{name: named(redirectName, level)}
	add := func(comment string, pieces ...match) {
		c.rules = append(c.rules, rule{comment, concat(pieces...)})
	}
	for _, v := range versions() {
		add("direct, for each workload", v.destinationIn(directName+v.suffix), accept())
		add("direct, for this workload", v.cgroupDestinationIn(level, named(directName+v.suffix+"_", level)), accept())
	}
	for _, v := range versions() {
		// Only what begins a connection: a segment from the middle of one whose
		// entry has gone must not get a new entry, behind which our end knows
		// another client. The guard resets it.
		if port := portOf(s.Listeners, v.suffix); port != 0 {
			add("every connection", v.protocolIs(unix.IPPROTO_TCP), flags(tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN), redirect(port))
		}
		if port := portOf(s.Resolvers, v.suffix); port != 0 {
			add("DNS", v.protocolIs(unix.IPPROTO_UDP), match{loadTransport(thDestination, 2, 0), equal(binary.BigEndian.AppendUint16(nil, portDNS)...)}, redirect(port))
		}
	}
	return c
}

// portOf gives the port of the socket on the loopback address to which
// redirecting leads (nf_nat_redirect); 0 for none.
func portOf(ours []netip.AddrPort, version string) uint16 {
	to := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if version == "6" {
		to = netip.IPv6Loopback()
	}
	for _, a := range ours {
		if a.Addr().Unmap() == to {
			return a.Port()
		}
	}
	return 0
}

// arrivalRules are those of the input hook: a redirected packet must arrive at a
// socket of ours. A SYN is enough to look at for TCP: who did not get it has no
// connection.
func arrivalRules() []rule {
	var rules []rule
	for _, v := range versions() {
		to := concat(wasRedirected(), v.destinationIn(localName+v.suffix))
		rules = append(rules,
			rule{"redirected connections", concat(to, transport(unix.IPPROTO_TCP), flags(tcpSYN|tcpRST|tcpACK, tcpSYN), jump(chainArrive))},
			rule{"redirected DNS", concat(to, transport(unix.IPPROTO_UDP), jump(chainArrive))},
		)
	}
	return rules
}

// arriveChain refuses what would arrive at somebody else's socket. Where there is
// no socket the kernel refuses by itself. A half-open connection is no full
// socket, and can only be ours.
func arriveChain(r *Redirect) chain {
	c := chain{name: chainArrive}
	for _, level := range r.receiverLevels() {
		c.rules = append(c.rules, rule{"ours", concat(cgroupIn(level, named(receiverName, level)), goBack())})
	}
	c.rules = append(c.rules,
		rule{"somebody else has our port", concat(fullSocket(), transport(unix.IPPROTO_TCP), count(countForeign), reset())},
		rule{"somebody else has our port", concat(fullSocket(), count(countForeign), prohibited())},
	)
	return c
}

// setZone puts the packet's connection into a zone, for the direction in which
// it began (see directed).
func setZone(zone uint16) match {
	return match{
		&expr.Immediate{Register: reg(0), Data: binary.NativeEndian.AppendUint16(nil, zone)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: reg(0), SourceRegister: true},
	}
}

// redirect sends the connection to a port of the loopback address.
func redirect(port uint16) match {
	return match{
		&expr.Immediate{Register: reg(0), Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: reg(0), RegisterProtoMax: reg(0), Flags: natRangePort},
	}
}

// wasRedirected holds for packets of connections whose destination was changed.
func wasRedirected() match {
	return match{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: host32(ctStatusDNAT), Xor: host32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: host32(0)},
	}
}

// fullSocket holds for packets that a socket will get which is more than half of
// a connection: nft_socket tells whether such a one is bound to the wildcard
// address, and tells nothing of others.
func fullSocket() match {
	return match{
		&expr.Socket{Key: expr.SocketKeyWildcard, Register: reg(0)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg(0), Data: []byte{1}},
	}
}

// protocolIs holds for packets whose header names a protocol with nothing in
// between.
func (v ipVersion) protocolIs(protocol byte) match {
	return append(append(match{}, v.header...), loadNetwork(v.protocol, 1, 0), equal(protocol))
}

// destinationIs holds for packets of a protocol to one address and port.
func (v ipVersion) destinationIs(p Protocol, to netip.AddrPort) match {
	return append(v.protocolIs(byte(p)),
		loadNetwork(v.destination, v.size, 0), equal(to.Addr().AsSlice()...),
		loadTransport(thDestination, 2, 0), equal(binary.BigEndian.AppendUint16(nil, to.Port())...))
}
