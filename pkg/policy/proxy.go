package policy

import (
	"net/netip"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/policy/pattern"
)

// Ways say how the connections to a name may leave: it can be both, where rules
// differ or where no_proxy names a port.
type Ways uint8

// The ways. No way at all is that of a name that no rule lets through.
const (
	// DirectWay is to an address of the name, which is resolved.
	DirectWay Ways = 1 << iota
	// ProxyWay is by an upstream proxy, which is told the name.
	ProxyWay
	// UpstreamWay is to targets that stand in for the name.
	UpstreamWay
)

// Proxied reports whether a connection to the name may go by a proxy, or to
// targets in its place. Workloads are then told an address that stands for the
// name.
func (w Ways) Proxied() bool { return w&(ProxyWay|UpstreamWay) != 0 }

// Resolved reports whether a connection to the name may go to an address of it.
func (w Ways) Resolved() bool { return !w.Proxied() || w&DirectWay != 0 }

// A detour is an upstream proxy with what does not go by it, ready to be
// compared.
type detour struct {
	proxy *config.UpstreamProxy
	// all has the ports of the entries "*".
	all      []uint16
	names    map[string][]bypass
	prefixes []config.NoProxy
}

// A bypass is what an entry of no_proxy says of a name.
type bypass struct {
	below bool
	port  uint16
}

func newDetour(u *config.UpstreamProxy) *detour {
	d := &detour{proxy: u, names: make(map[string][]bypass)}
	for _, n := range u.NoProxy {
		switch {
		case n.Prefix.IsValid():
			d.prefixes = append(d.prefixes, n)
		case n.Name == "":
			d.all = append(d.all, n.Port)
		default:
			d.names[n.Name] = append(d.names[n.Name], bypass{n.Below, n.Port})
		}
	}
	return d
}

// anyPort asks for entries whatever their port.
const anyPort = 0

// passed reports whether a destination does not go by the proxy: on that port
// or, for anyPort, on every port; on some says on at least one.
func (d *detour) passed(host string, addr netip.Addr, port uint16) (passed, some bool) {
	hit := func(only uint16) {
		passed = passed || only == 0 || only == port
		some = true
	}
	for _, only := range d.all {
		hit(only)
	}
	if addr.IsValid() {
		for i := range d.prefixes {
			if d.prefixes[i].Prefix.Contains(addr) {
				hit(d.prefixes[i].Port)
			}
		}
		return passed, some
	}
	for rest, below := host, false; ; below = true {
		for _, b := range d.names[rest] {
			if below || !b.below {
				hit(b.port)
			}
		}
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return passed, some
		}
		rest = after
	}
}

// staysHere tells what never goes by a proxy, which would take it for a place
// of its own: names and addresses of this host and of its link.
func staysHere(host string, addr netip.Addr) bool {
	if addr.IsValid() {
		return addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() || addr.IsMulticast()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// literal gives the address of a destination that is one, invalid for a name.
func literal(host string, addrs []netip.Addr) netip.Addr {
	switch {
	case host == "" && len(addrs) > 0:
		return addrs[0].Unmap()
	case host != "" && pattern.IsAddress(host):
		// A canonical host that is an address can be read as one.
		addr, _ := netip.ParseAddr(host)
		return addr.Unmap()
	default:
		return netip.Addr{}
	}
}

// by gives the proxy by which a connection of the question leaves; nil: none.
func (d *detour) by(ask *asked) *config.UpstreamProxy {
	if d == nil {
		return nil
	}
	addr := literal(ask.host, ask.addrs)
	if !addr.IsValid() && ask.host == "" || staysHere(ask.host, addr) {
		return nil
	}
	if passed, _ := d.passed(ask.host, addr, ask.port); passed {
		return nil
	}
	return d.proxy
}

// ProxyTo gives the proxy by which a connection of the deciding rule to a target
// leaves; nil: none.
func (d *Decision) ProxyTo(host string, port uint16) *config.UpstreamProxy {
	if d.rule == nil {
		return nil
	}
	return d.rule.detour.by(&asked{host: host, port: port})
}

// TargetRule gives the decision of the first rule with that upstream, for who
// contacts a target without a request of a workload.
func (p *Policy) TargetRule(upstream string) (Decision, bool) {
	if p == nil {
		return Decision{}, false
	}
	for i := range p.rules {
		if r := &p.rules[i]; r.upstream == upstream && r.allow {
			return Decision{
				Verdict: Allow, Rule: r.name, Index: r.index, Timeouts: r.timeouts, Upstream: upstream, Certificate: r.certificate, rule: r, policy: p,
			}, true
		}
	}
	return Decision{}, false
}

// PermitsTarget reports whether some rule with that upstream lets the address of
// a target be dialled, whoever asks.
func (p *Policy) PermitsTarget(upstream string, addr netip.Addr, own func(netip.Addr) bool) bool {
	if p == nil {
		return false
	}
	for i := range p.rules {
		r := &p.rules[i]
		if r.upstream != upstream || !r.allow {
			continue
		}
		d := Decision{Verdict: Allow, rule: r}
		if d.Permits(addr, own) {
			return true
		}
	}
	return false
}

// ways gives how connections to a name leave, whatever the port.
func (d *detour) ways(host string) Ways {
	if d == nil || staysHere(host, netip.Addr{}) {
		return DirectWay
	}
	switch passed, some := d.passed(host, netip.Addr{}, anyPort); {
	case passed:
		return DirectWay
	case some:
		return DirectWay | ProxyWay
	default:
		return ProxyWay
	}
}

// Proxied reports whether there is any upstream proxy, or a rule with targets
// in the place of its hosts. Without one every name is resolved, and the
// addresses that stand for names are ordinary ones.
func (p *Policy) Proxied() bool { return p != nil && p.proxied }

// unjudged reports whether the addresses of what is asked for cannot say
// whether the rule, which has cidrs, matches: the proxy alone resolves the name.
func (p *Policy) unjudged(r *rule, a *asked) bool {
	if !p.proxied || a.host == "" || pattern.IsAddress(a.host) {
		return false
	}
	return a.byProxy || r.allow && (r.detour.by(a) != nil || r.handling == Direct && len(a.addrs) == 0)
}
