package config

import (
	"net/netip"
	"slices"

	"sallyport/pkg/policy/pattern"
)

type glob = pattern.Glob

// checkDirect reports rules with handling direct that an earlier rule could
// contradict. The kernel decides them before a name, a protocol or a request is
// known; the first rule that matches must decide there too.
func (d *decoder) checkDirect(nodes []*node, rules []Rule) {
	for i := range rules {
		if rules[i].Handling != Direct || rules[i].Action != Allow {
			continue
		}
		for j := range rules[:i] {
			if rules[j].Handling == Direct && rules[j].Action == Allow || !meet(&rules[i].Match, &rules[j].Match) {
				continue
			}
			at := nodes[i].place
			if e := nodes[i].get("handling"); e != nil {
				at = e.place
			}
			d.add(at, "handling: direct is decided in the kernel, but rule %q at %s comes first and could match the same workload, address and port", rules[j].Name, nodes[j].place)
			break
		}
	}
}

// meet reports whether some connection could match both, as far as workload,
// address, port and transport tell; whatever else an earlier rule asks could
// hold too.
func meet(a, b *Match) bool {
	return transports(a)&transports(b) != 0 && portsMeet(a.Ports, b.Ports) &&
		prefixesMeet(a.CIDRs, b.CIDRs) && globsMeet(a.Workloads, b.Workloads)
}

// transports gives 1 for TCP and 2 for UDP.
func transports(m *Match) (t int) {
	if len(m.Protocols) == 0 {
		return 1
	}
	for _, p := range m.Protocols {
		if p == UDP {
			t |= 2
		} else {
			t |= 1
		}
	}
	return t
}

func portsMeet(a, b []PortRange) bool {
	return anyMeet(a, b, func(x, y PortRange) bool { return x.First <= y.Last && y.First <= x.Last })
}

func prefixesMeet(a, b []netip.Prefix) bool {
	return anyMeet(a, b, netip.Prefix.Overlaps)
}

func globsMeet(a, b Globs) bool {
	return anyMeet(a, b, func(x, y glob) bool { return x.Overlaps(&y) })
}

// anyMeet reports whether some pair meets; an empty list stands for everything.
func anyMeet[T any](a, b []T, meet func(x, y T) bool) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	return slices.ContainsFunc(a, func(x T) bool {
		return slices.ContainsFunc(b, func(y T) bool { return meet(x, y) })
	})
}
