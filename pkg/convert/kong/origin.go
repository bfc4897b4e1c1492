package kong

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// origin finds hosts, ports and protocols.
func (b *build) origin() bool {
	c, s := b.c, b.service
	m := &b.rule.Match
	defaultPort := 80
	switch s.protocol {
	case "http", "grpc", "ws":
		m.Protocols = []string{"http"}
	case "https", "grpcs", "wss":
		m.Protocols, defaultPort = []string{"https"}, 443
	default:
		c.lost(s.line, "service %s: protocol %s: only HTTP is carried; write a rule with ports and protocols: [tcp] (or handling: direct for udp) by hand; left out", s.label(), s.protocol)
		return false
	}
	preserved, ok := b.preserved()
	if !ok {
		return false
	}
	up := c.upstream(s.host)
	if up == nil {
		host, ok := convert.Host(s.host)
		if !ok || strings.Contains(host, "*") {
			c.lost(s.line, "service %s: host %q is no name that could be asked for; left out", s.label(), s.host)
			return false
		}
		m.Hosts, m.Ports = []string{host}, []int{s.port}
		b.rule.Private = convert.Private(m.Hosts)
		if len(preserved) > 0 {
			one := &upstream{entity: entity{name: s.label(), line: s.line}, targets: []target{{s.line, fmt.Sprintf("%s:%d", bracketed(host), s.port), 100}}}
			return b.balanced(one, "-host", preserved, defaultPort)
		}
		return true
	}
	if len(preserved) == 0 && up.hostHeader != "" {
		preserved = []string{up.hostHeader}
	}
	suffix := ""
	if len(preserved) > 0 {
		suffix = "-host"
	}
	return b.balanced(up, suffix, preserved, defaultPort)
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// preserved gives the names that a route with preserve_host sent upstream.
func (b *build) preserved() ([]string, bool) {
	c, r := b.c, b.way.route
	if !r.preserveHost {
		return nil, true
	}
	if len(r.hosts) == 0 {
		c.changed(r.line, "route %s: preserve_host: whatever Host a caller sent went upstream; here it is the origin's own", r.label())
		return nil, true
	}
	var names []string
	for _, h := range r.hosts {
		host, ok := convert.Host(h)
		if !ok {
			c.lost(r.line, "route %s: host %q: not carried: only a whole first label may be *; name the hosts one by one", r.label(), h)
			continue
		}
		names = append(names, host)
	}
	return names, len(names) > 0
}

// balanced sends the rule to an upstream. With names these are what is asked
// for; else the upstream's own name and its targets.
func (b *build) balanced(up *upstream, suffix string, names []string, defaultPort int) bool {
	c := b.c
	name := convert.Name(up.name + suffix)
	out := c.convertUpstream(up, name, b.service.protocol)
	if out == nil {
		return false
	}
	out.PreserveHost = len(names) > 0
	m := &b.rule.Match
	m.Ports = []int{defaultPort}
	m.Hosts = names
	var hosts []string
	for _, t := range out.Targets {
		if !slices.Contains(hosts, t.Host) {
			hosts = append(hosts, t.Host)
		}
		if !slices.Contains(m.Ports, int(t.Port)) {
			m.Ports = append(m.Ports, int(t.Port))
		}
	}
	if len(names) == 0 {
		if alias, ok := convert.Host(up.name); ok && !strings.Contains(alias, "*") {
			m.Hosts = append(m.Hosts, alias)
		}
		for _, h := range hosts {
			if !slices.Contains(m.Hosts, h) {
				m.Hosts = append(m.Hosts, h)
			}
		}
	}
	b.rule.Private = convert.Private(hosts)
	b.rule.Stages.Upstream = name
	if !c.made[name] {
		c.made[name] = true
		c.draft.Upstreams = append(c.draft.Upstreams, *out)
	}
	return true
}
