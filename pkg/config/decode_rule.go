package config

import (
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sallyport/pkg/policy/address"
	"sallyport/pkg/policy/condition"
	"sallyport/pkg/policy/pattern"
)

// rules reads the rules in order and checks what holds between them.
func (d *decoder) rules(n *node, c *Config) []Rule {
	switch {
	case n.kind != list:
		d.add(n.place, "rules: want a list, found %s", n.found())
		return nil
	case len(n.items) > MaxRules:
		d.add(n.place, "rules: more than %d", MaxRules)
		return nil
	case len(n.items) == 0:
		return nil
	}
	rules := make([]Rule, len(n.items))
	named := make(map[string]place, len(n.items))
	for i, item := range n.items {
		d.rule(item, &rules[i])
		if name := rules[i].Name; name != "" {
			at := item.get("name").value.place
			if first, twice := named[name]; twice {
				d.add(at, "rule %q is already defined at %s", name, first)
			} else {
				named[name] = at
			}
		}
	}
	d.checkWorkloadGlobs(n.items, rules, c.Workloads)
	d.checkDirect(n.items, rules)
	return rules
}

func (d *decoder) rule(n *node, r *Rule) {
	r.Handling = Inspect
	fields := append(d.stages("rules[]", &r.Stages, &r.Without),
		field{"name", func(n *node) { d.ruleName(n, &r.Name) }},
		field{"match", func(n *node) { d.match(n, &r.Match) }},
		field{"private", func(n *node) { r.Private = d.private(n) }},
		field{"action", func(n *node) { word(d, n, "rules[].action", &r.Action, Allow, Deny) }},
		field{"handling", func(n *node) { word(d, n, "rules[].handling", &r.Handling, Inspect, Tunnel, Direct) }},
		field{"mode", func(n *node) { word(d, n, "rules[].mode", &r.Mode, Enforce, Observe) }},
		field{"timeouts", func(n *node) { r.Timeouts = d.ruleTimeouts(n, "rules[].timeouts") }},
		field{"upstream_proxy", func(n *node) { r.UpstreamProxy = d.upstreamProxy(n, "rules[].upstream_proxy", true) }},
		field{"upstream_tls", func(n *node) { r.UpstreamTLS = d.upstreamTLS(n, "rules[].upstream_tls") }},
	)
	d.object(n, "rules[]", fields...)
	slices.SortFunc(r.Without, func(a, b string) int { return slices.Index(stageKeys, a) - slices.Index(stageKeys, b) })
	if n.kind == mapping {
		d.checkRule(n, r)
	}
}

// ruleName reads what audit, metrics and refusals will show.
func (d *decoder) ruleName(n *node, into *string) {
	s, ok := d.text(n, "rules[].name")
	switch {
	case !ok:
	case s == "" || strings.TrimSpace(s) != s:
		d.add(n.place, "name: %q: want a name without spaces around it", s)
	case len(s) > MaxName || !utf8.ValidString(s):
		d.add(n.place, "name: longer than %d bytes", MaxName)
	default:
		*into = s
	}
}

func (d *decoder) match(n *node, m *Match) {
	const path = "rules[].match"
	d.object(n, path,
		field{"workloads", func(n *node) { m.Workloads = d.globs(n, path+".workloads") }},
		field{"hosts", func(n *node) {
			d.some(n, path+".hosts", func(n *node) {
				if s, ok := d.text(n, path+".hosts"); ok {
					if h, err := pattern.ParseHost(s); err != nil {
						d.add(n.place, "match.hosts: %q %v", s, err)
					} else {
						m.Hosts = append(m.Hosts, h)
					}
				}
			})
		}},
		field{"cidrs", func(n *node) { m.CIDRs = d.prefixes(n, path+".cidrs") }},
		field{"ports", func(n *node) {
			d.some(n, path+".ports", func(n *node) {
				if r, ok := d.portRange(n); ok {
					m.Ports = append(m.Ports, r)
				}
			})
		}},
		field{"protocols", func(n *node) {
			d.some(n, path+".protocols", func(n *node) {
				var p Protocol
				if word(d, n, path+".protocols", &p, HTTP, HTTPS, TLSP, TCP, UDP); p != "" {
					m.Protocols = append(m.Protocols, p)
				}
			})
		}},
		field{"methods", func(n *node) { m.Methods = d.methods(n) }},
		field{"paths", func(n *node) {
			d.some(n, path+".paths", func(n *node) {
				if s, ok := d.text(n, path+".paths"); ok {
					if p, err := pattern.ParsePath(s); err != nil {
						d.add(n.place, "match.paths: %q %v", s, err)
					} else {
						m.Paths = append(m.Paths, p)
					}
				}
			})
		}},
		field{"headers", func(n *node) { m.Headers = d.headers(n) }},
		field{"when", func(n *node) { m.When = d.when(n) }},
	)
}

// when reads a condition; what it says wrong stands in one line of its text.
func (d *decoder) when(n *node) *condition.Condition {
	s, ok := d.text(n, "rules[].match.when")
	if !ok {
		return nil
	}
	c, err := d.conditions.Compile(s)
	if err != nil {
		d.add(n.place, "match.when: %v", err)
		return nil
	}
	return c
}

// methods reads globs of methods, which are case-sensitive (RFC 9110 section
// 9.1): one in lower case would never match.
func (d *decoder) methods(n *node) Globs {
	globs := d.globs(n, "rules[].match.methods")
	for i, g := range globs {
		at := n.place
		if n.kind == list && i < len(n.items) {
			at = n.items[i].place
		}
		switch s := g.String(); {
		case strings.ToUpper(s) != s:
			d.add(at, "match.methods: %q: methods are written in upper case (did you mean %q?)", s, strings.ToUpper(s))
		case strings.Trim(s, tokenBytes+"?[]\\") != "":
			d.add(at, "match.methods: %q is no method", s)
		}
	}
	return globs
}

// tokenBytes are those of a token (RFC 9110 section 5.6.2).
const tokenBytes = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func (d *decoder) headers(n *node) (all []HeaderMatch) {
	if n.kind != mapping || len(n.entries) == 0 {
		d.add(n.place, "match.headers: want a mapping of header names to globs, found %s", n.found())
		return nil
	}
	if len(n.entries) > MaxListItems {
		d.add(n.place, "match.headers: more than %d", MaxListItems)
		return nil
	}
	first := make(map[string]place)
	for _, e := range n.entries {
		if e.key == "" || strings.Trim(e.key, tokenBytes) != "" {
			d.add(e.place, "match.headers: %q is no header name", e.key)
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(e.key)
		if at, twice := first[name]; twice {
			d.add(e.place, "match.headers: %q is already given at %s", e.key, at)
			continue
		}
		first[name] = e.place
		all = append(all, HeaderMatch{Name: name, Values: d.globs(e.value, "rules[].match.headers."+e.key)})
	}
	return all
}

// portRange reads 443 or "8000-8100".
func (d *decoder) portRange(n *node) (PortRange, bool) {
	if n.kind == scalar && n.tag == "!!str" {
		low, high, ranged := strings.Cut(n.value, "-")
		first, err1 := strconv.ParseUint(low, 10, 16)
		last, err2 := first, err1
		if ranged {
			last, err2 = strconv.ParseUint(high, 10, 16)
		}
		if err1 != nil || err2 != nil || first == 0 || last < first {
			d.add(n.place, `match.ports: want a port such as 443 or a range such as "8000-8100", found %q`, n.value)
			return PortRange{}, false
		}
		return PortRange{uint16(first), uint16(last)}, true
	}
	var port uint16
	d.port(n, "rules[].match.ports", 1, &port)
	return PortRange{port, port}, port != 0
}

// prefixes reads addresses and prefixes; an empty list is as none.
func (d *decoder) prefixes(n *node, path string) (all []netip.Prefix) {
	d.items(n, path, func(n *node) {
		if p, ok := d.prefix(n, path); ok {
			all = append(all, p)
		}
	})
	return all
}

func (d *decoder) prefix(n *node, path string) (netip.Prefix, bool) {
	s, ok := d.text(n, path)
	if !ok {
		return netip.Prefix{}, false
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		d.add(n.place, "%swant a prefix such as 192.0.2.0/24 or an address, found %q", prefix(path), s)
	case p.Addr().Is4In6():
		d.add(n.place, "%s%q: write IPv4 prefixes as such, without ::ffff:", prefix(path), s)
	case p != p.Masked():
		d.add(n.place, "%s%q has bits after /%d (did you mean %q?)", prefix(path), s, p.Bits(), p.Masked())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// private reads the entries that exempt from address classes. One that lies in
// no class wholly would exempt nothing, and its author would not know.
func (d *decoder) private(n *node) (all []netip.Prefix) {
	d.items(n, "rules[].private", func(n *node) {
		p, ok := d.prefix(n, "rules[].private")
		if !ok {
			return
		}
		if address.Within(p) == 0 && !p.IsSingleIP() {
			d.add(n.place, "private: %q lies wholly inside no address class, so it would exempt nothing: name the prefixes themselves, such as 10.0.0.0/8", p)
			return
		}
		all = append(all, p)
	})
	return all
}
