package config

// checkStages checks what holds between the stages of rules, which have been
// merged with those of `defaults`, and the rest of the file.
func (d *decoder) checkStages(rules, defaults *node, c *Config) {
	known := make(map[string]bool, len(c.Upstreams))
	names := make([]string, len(c.Upstreams))
	for i := range c.Upstreams {
		names[i] = c.Upstreams[i].Name
		known[names[i]] = true
	}
	unknown := func(n *node) bool {
		e := n.get("upstream")
		if e == nil || e.value.kind != scalar || e.value.isOff() || known[e.value.value] || checkIdentifier(e.value.value, MaxName, upstreamBytes) != nil {
			return false
		}
		d.add(e.value.place, "upstream: %q is no entry of upstreams%s", e.value.value, suggest(e.value.value, names))
		return true
	}
	if defaults != nil && defaults.kind == mapping {
		unknown(defaults)
	}
	if rules == nil {
		return
	}
	for i := range c.Rules {
		n, r := rules.items[i], &c.Rules[i]
		if n.kind != mapping || unknown(n) {
			continue
		}
		// Else whatever the workload names, even a bare address, would be taken for
		// the upstream.
		if r.Upstream != "" && len(r.Match.Hosts) == 0 {
			at := n.place
			if e := n.get("upstream"); e != nil {
				at = e.place
			}
			d.add(at, "upstream: needs match.hosts: the names for which %q stands in (\"*\" for any)", r.Upstream)
		}
	}
}
