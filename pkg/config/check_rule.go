package config

import (
	"net/netip"
	"slices"

	"sallyport/pkg/policy/address"
)

// checkRule checks what holds between the keys of one rule.
func (d *decoder) checkRule(n *node, r *Rule) {
	if n.get("name") == nil {
		d.add(n.place, `a rule needs a "name"`)
	}
	if n.get("action") == nil {
		d.add(n.place, `a rule needs an "action": allow or deny`)
	}
	// at gives the place of a key of the rule, or of its match.
	at := func(key string) place {
		if e := n.get(key); e != nil {
			return e.place
		}
		if e := n.get("match"); e != nil && e.value.kind == mapping {
			if inner := e.value.get(key); inner != nil {
				return inner.place
			}
		}
		return n.place
	}
	m := &r.Match
	if r.Action == Deny {
		if r.Handling != Inspect {
			d.add(at("handling"), "handling: a rule that denies has no handling")
		}
		if len(r.Private) > 0 {
			d.add(at("private"), "private: a rule that denies reaches no address")
		}
		if r.UpstreamProxy != nil {
			d.add(at("upstream_proxy"), "upstream_proxy: a rule that denies reaches no proxy")
		}
	}
	if r.UpstreamTLS != nil {
		switch {
		case r.Action == Deny:
			d.add(at("upstream_tls"), "upstream_tls: a rule that denies reaches no upstream")
		case r.Handling != Inspect:
			d.add(at("upstream_tls"), "upstream_tls needs handling inspect, not %s: only there is the TLS with the upstream ours", r.Handling)
		}
	}
	for _, key := range stageKeys {
		e := n.get(key)
		switch {
		case e == nil || e.value.isOff():
		case r.Action == Deny:
			d.add(e.place, "%s: a rule that denies forwards nothing", key)
		case r.Handling != Inspect:
			d.add(e.place, "%s needs handling inspect, not %s: only there is the request seen", key, r.Handling)
		}
	}
	if r.Handling != Inspect {
		for _, key := range []struct {
			name string
			set  bool
		}{{"methods", len(m.Methods) > 0}, {"paths", len(m.Paths) > 0}, {"headers", len(m.Headers) > 0}} {
			if key.set {
				d.add(at(key.name), "match.%s needs handling inspect, not %s: only there is the request seen", key.name, r.Handling)
			}
		}
	}
	udp := slices.Contains(m.Protocols, UDP)
	if udp && r.Action == Allow && r.Handling != Direct {
		d.add(at("protocols"), "match.protocols: udp needs handling direct")
	}
	if r.Handling != Direct {
		return
	}
	if len(m.CIDRs) == 0 {
		d.add(at("handling"), "handling: direct needs match.cidrs: the kernel knows addresses only")
	}
	for _, key := range []struct {
		name string
		set  bool
	}{{"hosts", len(m.Hosts) > 0}, {"private", len(r.Private) > 0}, {"timeouts", r.Timeouts != nil}, {"upstream_proxy", r.UpstreamProxy != nil}} {
		if key.set {
			d.add(at(key.name), "%s: a rule with handling direct has cidrs and ports only", key.name)
		}
	}
	for _, p := range m.Protocols {
		if p != TCP && p != UDP {
			d.add(at("protocols"), "match.protocols: handling direct knows tcp and udp, not %s", p)
		}
	}
}

// checkWorkloadGlobs reports globs of rules that no entry of `workloads` can
// give a name for: a rule that never holds is a mistake.
func (d *decoder) checkWorkloadGlobs(nodes []*node, rules []Rule, workloads []Workload) {
	names := make(Globs, len(workloads))
	exact := make(map[string]bool, len(workloads))
	for i := range workloads {
		names[i] = workloads[i].NameGlob()
		if s, ok := names[i].Exact(); ok {
			exact[s] = true
		}
	}
	known := make(map[string]bool)
	for i := range rules {
		for j := range rules[i].Match.Workloads {
			g := &rules[i].Match.Workloads[j]
			if s, ok := g.Exact(); ok && exact[s] {
				continue
			}
			can, done := known[g.String()]
			if !done {
				can = slices.ContainsFunc(names, func(name glob) bool { return name.Overlaps(g) })
				known[g.String()] = can
			}
			if can {
				continue
			}
			value := nodes[i].get("match").value.get("workloads").value
			at := value.place
			for _, item := range value.items {
				if item.value == g.String() {
					at = item.place
				}
			}
			d.add(at, "match.workloads: %q can match no entry of workloads%s", g, suggest(g.String(), workloadNames(workloads)))
		}
	}
}

func workloadNames(workloads []Workload) []string {
	names := make([]string, len(workloads))
	for i := range workloads {
		names[i] = workloads[i].Name
	}
	return names
}

// checkReserved reports cidrs of rules that allow where, with an upstream proxy,
// every address stands for a name: such a rule would never hold.
func (d *decoder) checkReserved(nodes []*node, rules []Rule) {
	for i := range rules {
		if rules[i].Action != Allow {
			continue
		}
		for _, p := range rules[i].Match.CIDRs {
			for _, reserved := range []netip.Prefix{address.Synthetic4, address.Synthetic6} {
				if reserved.Bits() <= p.Bits() && reserved.Contains(p.Addr()) {
					d.add(nodes[i].get("match").value.get("cidrs").place, "match.cidrs: %q lies in %s, whose addresses stand for names that leave by upstream_proxy", p, reserved)
				}
			}
		}
	}
}
