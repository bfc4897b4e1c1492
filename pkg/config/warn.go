package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"sallyport/pkg/policy/pattern"
)

// Check is Parse that also tells what is allowed and can hardly be meant, in
// order of file and place. There are no warnings where there are errors.
func Check(files []File) (*Config, Errors, error) {
	w := &report{order: make(map[string]int, len(files))}
	for i, f := range files {
		w.order[f.Name] = i
	}
	c, err := read(files, func(root *node, c *Config) { w.warn(root, c) })
	if err != nil {
		return nil, nil, err
	}
	warnings, _ := w.err().(Errors)
	return c, warnings, nil
}

// warn looks at a valid configuration.
func (r *report) warn(root *node, c *Config) {
	var rules []*node
	if e := root.get("rules"); e != nil {
		rules = e.value.items
	}
	r.warnWorkloads(root, c)
	r.warnUnreachable(rules, c.Rules)
	for i := range c.Rules {
		rule := &c.Rules[i]
		if rule.Binding() && slices.ContainsFunc(rule.Match.Protocols, func(p Protocol) bool { return p == TCP || p == TLSP }) {
			r.add(rules[i].get("match").value.get("protocols").place, "rule %q allows HTTP only, since its stages look at requests: for other protocols write a rule with handling tunnel", rule.Name)
		}
		if root.get("redis") == nil && slices.ContainsFunc(rule.RateLimits, func(l RateLimit) bool { return l.Policy == RedisCounters }) {
			r.add(rules[i].place, "rule %q counts in redis, and there is no key redis: it is looked for at %s", rule.Name, c.Redis.Address)
		}
		if own := rules[i].get("headers"); own != nil && rule.Headers != nil {
			h := rule.Headers
			for _, f := range slices.Concat(h.Request.Set, h.Request.Add, h.Response.Set, h.Response.Add) {
				if v := foreignVariable(f.Value); v != "" {
					r.add(own.place, "rule %q sends %s in %s as it is written: variables are %s", rule.Name, v, f.Name, strings.Join(HeaderVariables, " "))
				}
			}
		}
	}
}

// HeaderVariables are what values of fields may hold.
var HeaderVariables = []string{
	"{workload}", "{rule}", "{client_ip}", "{forwarded_for}", "{scheme}", "{host}", "{port}", "{method}", "{path}", "{query}",
}

var likeVariable = regexp.MustCompile(`\$\{?[a-z][a-z_]+\}?|\$\([a-z_.]+\)|\{[a-z][a-z_]+\}`)

// foreignVariable finds in a value what looks like a variable, of nginx, Kong or
// a shell, and is none here.
func foreignVariable(value string) string {
	for _, v := range likeVariable.FindAllString(value, -1) {
		if !slices.Contains(HeaderVariables, v) {
			return v
		}
	}
	return ""
}

// warnWorkloads tells of entries that may do nothing at all.
func (r *report) warnWorkloads(root *node, c *Config) {
	e := root.get("workloads")
	if e == nil || c.Default == Allow {
		return
	}
	var named Globs
	for i := range c.Rules {
		switch rule := &c.Rules[i]; {
		case rule.Action != Allow:
		case len(rule.Match.Workloads) == 0:
			return
		default:
			named = append(named, rule.Match.Workloads...)
		}
	}
	for i := range c.Workloads {
		name := c.Workloads[i].NameGlob()
		if !slices.ContainsFunc(named, func(g glob) bool { return g.Overlaps(&name) }) {
			r.add(e.value.get(c.Workloads[i].Key).place, "no rule allows workload %q anything", c.Workloads[i].Key)
		}
	}
}

// warnUnreachable tells of rules that never decide, because an earlier one holds
// wherever they do.
func (r *report) warnUnreachable(nodes []*node, rules []Rule) {
	// The rules so far by each of their hosts; those without are in any.
	byHost := make(map[pattern.Host][]int)
	var anywhere []int
	for i := range rules {
		b := &rules[i]
		candidates := slices.Clone(anywhere)
		if len(b.Match.Hosts) > 0 {
			for _, h := range above(b.Match.Hosts[0]) {
				candidates = append(candidates, byHost[h]...)
			}
			slices.Sort(candidates)
		}
		for _, j := range candidates {
			if rules[j].covers(b) {
				r.add(nodes[i].place, "rule %q is never reached: rule %q at %s comes first and holds wherever it does", b.Name, rules[j].Name, nodes[j].place)
				break
			}
		}
		for _, h := range b.Match.Hosts {
			byHost[h] = append(byHost[h], i)
		}
		if len(b.Match.Hosts) == 0 {
			anywhere = append(anywhere, i)
		}
	}
}

// above gives the patterns that hold wherever h does.
func above(h pattern.Host) []pattern.Host {
	all := []pattern.Host{h}
	if !pattern.IsAddress(h.Name) {
		for name := h.Name; name != ""; {
			_, name, _ = strings.Cut(name, ".")
			all = append(all, pattern.Host{Name: name, Wildcard: true})
		}
	}
	return all
}

// covers reports whether a holds wherever b does, as far as their keys can be
// compared: where it cannot be told, it does not.
func (a *Rule) covers(b *Rule) bool {
	m, n := &a.Match, &b.Match
	if m.When != nil {
		return false
	}
	// Of what can be read in several ways a rule that denies takes more than one
	// that allows: "//a" where the path is "/a", "get" for GET, any value of a field
	// for all, an address that another embeds.
	if a.Action == Allow && b.Action == Deny && len(m.Paths)+len(m.Methods)+len(m.Headers)+len(m.CIDRs) > 0 {
		return false
	}
	protocols := protocolsOf(m)
	if m.NeedsRequest() || a.Binding() {
		// Of what is no HTTP such a rule says nothing.
		protocols &= 0b11
	}
	// With an upstream, cidrs say which addresses its targets may have.
	wide, narrow := m.CIDRs, n.CIDRs
	if a.Upstream != "" {
		wide = nil
	}
	if b.Upstream != "" {
		narrow = nil
	}
	return protocolsOf(n)&^protocols == 0 &&
		within(n.Workloads, m.Workloads, globWithin) &&
		within(n.Hosts, m.Hosts, func(x, y pattern.Host) bool { return slices.Contains(above(x), y) }) &&
		within(narrow, wide, func(x, y netip.Prefix) bool { return y.Bits() <= x.Bits() && y.Contains(x.Addr()) }) &&
		within(n.Ports, m.Ports, func(x, y PortRange) bool { return y.First <= x.First && x.Last <= y.Last }) &&
		within(n.Methods, m.Methods, globWithin) &&
		within(n.Paths, m.Paths, func(x, y pattern.Path) bool { return x.Equal(y) || y.String() == "/**" && a.everyPath(x) }) &&
		headersWithin(n.Headers, m.Headers)
}

// everyPath reports whether a, of the paths /**, holds for all that p matches. The
// "*" of OPTIONS is not below "/", and only a pattern that writes %2F allows it.
func (a *Rule) everyPath(p pattern.Path) bool {
	return p.String() != "**" && (a.Action == Deny || !strings.Contains(strings.ToUpper(p.String()), "%2F"))
}

// within reports whether each of the narrow lies in one of the wide; an empty
// list stands for everything.
func within[T any](narrow, wide []T, in func(x, y T) bool) bool {
	if len(wide) == 0 || len(narrow) == 0 {
		return len(wide) == 0
	}
	for _, x := range narrow {
		if !slices.ContainsFunc(wide, func(y T) bool { return in(x, y) }) {
			return false
		}
	}
	return true
}

func globWithin(x, y glob) bool {
	s, exact := x.Exact()
	return x.Equal(y) || y.String() == "*" || exact && y.Match(s)
}

// headersWithin reports whether each of the wide is demanded by the narrow too.
func headersWithin(narrow, wide []HeaderMatch) bool {
	for _, w := range wide {
		if !slices.ContainsFunc(narrow, func(n HeaderMatch) bool { return n.Name == w.Name && within(n.Values, w.Values, globWithin) }) {
			return false
		}
	}
	return true
}

// protocolsOf has a bit for HTTP, HTTPS, other TLS, other TCP and UDP.
func protocolsOf(m *Match) (set uint8) {
	if len(m.Protocols) == 0 {
		return 0b1111
	}
	for _, p := range m.Protocols {
		set |= map[Protocol]uint8{HTTP: 0b1, HTTPS: 0b10, TLSP: 0b110, TCP: 0b1111, UDP: 0b10000}[p]
	}
	return set
}
