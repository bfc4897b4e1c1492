package kong

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// targetPort is Kong's for a target without one.
const targetPort = 8000

// convertUpstream converts an upstream; nil where nothing can be sent to it.
func (c *conversion) convertUpstream(u *upstream, name, protocol string) *convert.Upstream {
	out := &convert.Upstream{}
	out.Name = name
	out.Comment = []string{"Upstream " + u.label() + " (line " + strconv.Itoa(u.line) + ")."}
	c.algorithm(u, out)
	total := 0
	for _, t := range u.targets {
		host, port, ok := hostPort(t.target)
		if !ok {
			c.lost(t.line, "target %q: no host with a port; left out", t.target)
			continue
		}
		if slices.ContainsFunc(out.Targets, func(o config.Target) bool { return o.Host == host && o.Port == port }) {
			continue
		}
		weight := min(t.weight, config.MaxWeight)
		total += weight
		out.Targets = append(out.Targets, config.Target{Host: host, Port: port, Weight: weight})
		if strings.HasPrefix(protocol, "https") && net.ParseIP(host) != nil {
			c.changed(t.line, "target %q: an address: its certificate must be for that address, since each target is verified under its own name; name the host instead", t.target)
		}
	}
	if total == 0 {
		c.lost(u.line, "upstream %s: no target has a weight, so nothing could be sent there; left out", u.label())
		return nil
	}
	if u.active != nil {
		c.active(u, out)
	}
	if u.passive != nil {
		c.passive(u, out)
	}
	if u.certificate > 0 {
		c.lost(u.certificate, "upstream %s: client_certificate: write it into files and name them in upstream_tls: { cert: FILE, key: FILE } of its rules", u.label())
	}
	for _, k := range u.unread {
		c.lost(k.line, "upstream %s: %s: not known; look whether anything is needed in its place", u.label(), k.what)
	}
	return out
}

func hostPort(s string) (string, uint16, bool) {
	port := uint64(targetPort)
	name := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || strings.Contains(s, "]:")) {
		p, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || p == 0 {
			return "", 0, false
		}
		name, port = s[:i], p
	}
	host, ok := convert.Host(name)
	return host, uint16(port), ok && !strings.Contains(host, "*")
}

func (c *conversion) algorithm(u *upstream, out *convert.Upstream) {
	out.Algorithm = config.RoundRobin
	switch u.algorithm {
	case "", "round-robin":
		// Before algorithms had a name, hash_on alone chose one.
		if u.algorithm != "" || u.hashOn == "" || u.hashOn == "none" {
			return
		}
	case "consistent-hashing":
	case "least-connections":
		out.Algorithm = config.LeastConn
		return
	case "latency":
		out.Algorithm = config.LeastConn
		c.changed(u.line, "upstream %s: algorithm latency: carried as least_conn, which also spares what is slow", u.label())
		return
	default:
		c.changed(u.line, "upstream %s: algorithm %s: not known; carried as round_robin", u.label(), u.algorithm)
		return
	}
	line := max(u.hashLine, u.line)
	switch u.hashOn {
	case "consumer", "ip":
		out.Algorithm, out.HashOn = config.ConsistentHash, config.HashKey{By: config.HashWorkload}
		c.changed(line, "upstream %s: hash_on %s: carried as workload, which is what a caller is here", u.label(), u.hashOn)
	case "header":
		out.Algorithm, out.HashOn = config.ConsistentHash, config.HashKey{By: config.HashHeader, Header: u.hashHeader}
	case "path":
		out.Algorithm, out.HashOn = config.ConsistentHash, config.HashKey{By: config.HashPath}
	case "", "none":
	default:
		c.changed(line, "upstream %s: hash_on %s: not carried; targets take turns: choose hash_on workload, path or header:NAME if requests must stay together", u.label(), u.hashOn)
	}
}

func seconds(s float64) time.Duration {
	return min(time.Duration(s*float64(time.Second)).Round(time.Millisecond), config.MaxTimeout)
}

func threshold(n int) int { return min(n, config.MaxThreshold) }

func (c *conversion) active(u *upstream, out *convert.Upstream) {
	k, a := u.active, &out.Active
	out.HasActive = true
	switch k.kind {
	case "http":
		a.Type = config.CheckHTTP
	case "https":
		a.Type = config.CheckHTTPS
	case "tcp":
		a.Type = config.CheckTCP
	case "":
		if slices.ContainsFunc(out.Targets, func(t config.Target) bool { return t.Port == 443 }) {
			c.changed(k.line, "upstream %s: active checks without a type: Kong asked by http; targets on port 443 are asked by https", u.label())
		}
	default:
		c.changed(k.line, "upstream %s: active checks of type %s: carried as tcp", u.label(), k.kind)
		a.Type = config.CheckTCP
	}
	a.HTTPPath, a.Timeout, a.Statuses = k.path, seconds(k.timeout), k.healthyStatuses
	a.Healthy.Interval, a.Healthy.Successes = seconds(k.healthyInterval), threshold(k.successes)
	a.Unhealthy.Interval = seconds(k.unhealthyInterval)
	a.Unhealthy.HTTPFailures, a.Unhealthy.TCPFailures, a.Unhealthy.Timeouts = threshold(k.http), threshold(k.tcp), threshold(k.timeouts)
	if k.unhealthyLine > 0 {
		c.changed(k.unhealthyLine, "upstream %s: unhealthy.http_statuses: not carried: whatever is not among statuses is a failure; check that list", u.label())
	}
	for _, o := range k.unread {
		c.changed(o.line, "upstream %s: active checks: %s: not carried; check that the targets answer without it", u.label(), o.what)
	}
}

func (c *conversion) passive(u *upstream, out *convert.Upstream) {
	k, p := u.passive, &out.Passive
	out.HasPassive = true
	p.Statuses = k.unhealthyStatuses
	p.Unhealthy.HTTPFailures, p.Unhealthy.TCPFailures, p.Unhealthy.Timeouts = threshold(k.http), threshold(k.tcp), threshold(k.timeouts)
	if u.active == nil || u.active.healthyInterval == 0 {
		p.RecoverAfter = 30 * time.Second
		c.changed(k.line, "upstream %s: passive checks: without active ones Kong left a target out until somebody called its admin API; here it is tried again after recover_after: 30s", u.label())
	}
	if len(k.healthyStatuses) > 0 || k.successes > 0 {
		c.changed(k.line, "upstream %s: passive checks: healthy: not carried: a target comes back by recover_after or an active check", u.label())
	}
}
