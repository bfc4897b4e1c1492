package policy

import (
	"net/netip"

	"sallyport/pkg/policy/address"
)

// A DirectRule is one thing that the kernel lets a workload reach.
type DirectRule struct {
	Prefix      netip.Prefix
	First, Last uint16
	// Protocol is TCP or UDP.
	Protocol Protocol
	// Rule is the name of the rule.
	Rule string
}

// DirectRules gives what the kernel lets the workload reach by itself, in rule
// order: the prefixes of its `direct` rules without the address classes that
// those rules do not exempt. own are the addresses of the host itself.
func (p *Policy) DirectRules(workload string, own []netip.Addr) []DirectRule {
	if p == nil {
		return nil
	}
	var all []DirectRule
	for i := range p.rules {
		r := &p.rules[i]
		if r.handling != Direct || !r.allow || r.set >= 0 && !p.sets[r.set].match(workload) {
			continue
		}
		for _, entry := range r.cidrs {
			prefixes := address.Ordinary(entry, own)
			if p.proxied {
				// There the kernel must not decide: such an address stands for a name.
				prefixes = address.WithoutSynthetic(prefixes)
			}
			for _, prefix := range prefixes {
				all = r.direct(all, prefix)
			}
		}
	}
	return all
}

// direct adds the rule's ports and protocols for one prefix.
func (r *rule) direct(all []DirectRule, prefix netip.Prefix) []DirectRule {
	for _, protocol := range []Protocol{TCP, UDP} {
		if r.protocols&protocol.bit() == 0 {
			continue
		}
		d := DirectRule{Prefix: prefix, First: 1, Last: 65535, Protocol: protocol, Rule: r.name}
		if len(r.ports) == 0 {
			all = append(all, d)
		}
		for _, ports := range r.ports {
			d.First, d.Last = ports.First, ports.Last
			all = append(all, d)
		}
	}
	return all
}
