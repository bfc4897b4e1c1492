package config

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/policy/pattern"
)

// upstreamBytes are those of an upstream's name beside letters and digits.
const upstreamBytes = "_-."

// upstreams reads the entries in file order.
func (d *decoder) upstreams(n *node) []Upstream {
	switch {
	case n.kind != mapping:
		d.add(n.place, "upstreams: want a mapping of names, found %s", n.found())
		return nil
	case len(n.entries) > MaxUpstreams:
		d.add(n.place, "upstreams: more than %d", MaxUpstreams)
		return nil
	case len(n.entries) == 0:
		return nil
	}
	all := make([]Upstream, 0, len(n.entries))
	for i := range n.entries {
		e := &n.entries[i]
		if err := checkIdentifier(e.key, MaxName, upstreamBytes); err != nil {
			d.add(e.place, "upstream %q %v", e.key, err)
			continue
		}
		u := Upstream{Name: e.key, Algorithm: RoundRobin}
		d.upstream(e.value, &u)
		all = append(all, u)
	}
	return all
}

func (d *decoder) upstream(n *node, u *Upstream) {
	const path = "upstreams{}"
	d.object(n, path,
		field{"algorithm", func(n *node) {
			word(d, n, path+".algorithm", &u.Algorithm, RoundRobin, LeastConn, Random, ConsistentHash)
		}},
		field{"hash_on", func(n *node) {
			if by, name := keyed(d, n, path+".hash_on", HashHeader, HashWorkload, HashPath); by != "" {
				u.HashOn = HashKey{by, name}
			}
		}},
		field{"targets", func(n *node) { u.Targets = d.targets(n, path+".targets") }},
		field{"preserve_host", func(n *node) { d.boolean(n, path+".preserve_host", &u.PreserveHost) }},
		field{"slow_start", func(n *node) {
			if v, ok := d.duration(n, path+".slow_start", 0); ok {
				u.SlowStart = v
			}
		}},
		field{"healthchecks", func(n *node) {
			d.object(n, path+".healthchecks",
				field{"active", func(n *node) { d.activeCheck(n, path+".healthchecks.active", &u.Active) }},
				field{"passive", func(n *node) { d.passiveCheck(n, path+".healthchecks.passive", &u.Passive) }})
		}},
	)
	d.needs(n, path, "targets")
	if n.kind != mapping {
		return
	}
	switch hash := n.get("hash_on"); {
	case hash == nil && u.Algorithm == ConsistentHash:
		d.add(n.get("algorithm").place, "algorithm: consistent_hash needs hash_on: workload, path or header:NAME")
	case hash != nil && u.Algorithm != ConsistentHash:
		d.add(hash.place, "hash_on is for algorithm consistent_hash, not %s", u.Algorithm)
	}
}

func (d *decoder) targets(n *node, path string) (all []Target) {
	if n.kind == list && len(n.items) == 0 {
		d.add(n.place, "%swant at least one", prefix(path))
		return nil
	}
	named := make(map[string]place)
	before, total := len(d.errs), 0
	d.few(n, path, MaxTargets, func(n *node) {
		t := Target{Weight: 100}
		d.object(n, path,
			field{"target", func(n *node) {
				host, port, ok := d.hostPort(n, path+".target", "api.example.com:443")
				if !ok {
					return
				}
				key := joinHostPort(host, port)
				if first, twice := named[key]; twice {
					d.add(n.place, "%s%q is already given at %s", prefix(path+".target"), key, first)
					return
				}
				named[key], t.Host, t.Port = n.place, host, port
			}},
			field{"weight", func(n *node) { d.count(n, path+".weight", 0, MaxWeight, &t.Weight) }},
		)
		d.needs(n, path, "target")
		total += t.Weight
		all = append(all, t)
	})
	if len(d.errs) == before && total == 0 {
		d.add(n.place, "%severy weight is 0, so nothing would go anywhere", prefix(path))
	}
	return all
}

// hostPort reads a name or an address with its port, IPv6 in brackets.
func (d *decoder) hostPort(n *node, path, example string) (host string, port uint16, ok bool) {
	s, ok := d.text(n, path)
	if !ok {
		return "", 0, false
	}
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || strings.Contains(s, "/") || i < strings.LastIndexByte(s, ']') || s[0] != '[' && strings.IndexByte(s, ':') != i {
		d.add(n.place, "%swant a host with a port such as %s, found %q", prefix(path), example, s)
		return "", 0, false
	}
	v, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || v == 0 {
		d.add(n.place, "%sbad port in %q: want 1 to 65535", prefix(path), s)
		return "", 0, false
	}
	if host, err = pattern.CanonicalHost(s[:i]); err != nil {
		d.add(n.place, "%sthe host %q %v", prefix(path), s[:i], err)
		return "", 0, false
	}
	return host, uint16(v), true
}

func joinHostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// activeCheck reads the check that asks by itself; a block that is there has
// Kong's defaults: it does nothing until an interval is set.
func (d *decoder) activeCheck(n *node, path string, c *ActiveCheck) {
	*c = ActiveCheck{HTTPPath: "/", Timeout: time.Second}
	healthy, unhealthy := path+".healthy", path+".unhealthy"
	period := func(path string, into *time.Duration) func(n *node) {
		return func(n *node) {
			if v, ok := d.duration(n, path, 0); ok {
				*into = v
			}
		}
	}
	threshold := func(path, key string, into *int) field {
		return field{key, func(n *node) { d.count(n, path+"."+key, 0, MaxThreshold, into) }}
	}
	d.object(n, path,
		field{"type", func(n *node) { word(d, n, path+".type", &c.Type, CheckHTTP, CheckHTTPS, CheckTCP) }},
		field{"http_path", func(n *node) {
			s, ok := d.text(n, path+".http_path")
			switch {
			case !ok:
			case !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " #\"<>\\^`{|}") || !isASCII(s):
				d.add(n.place, "%swant a path such as /health, percent-encoded, found %q", prefix(path+".http_path"), s)
			default:
				c.HTTPPath = s
			}
		}},
		field{"timeout", func(n *node) {
			if v, ok := d.duration(n, path+".timeout", time.Millisecond); ok {
				c.Timeout = v
			}
		}},
		field{"statuses", func(n *node) { c.Statuses = d.statuses(n, path+".statuses") }},
		field{"healthy", func(n *node) {
			d.object(n, healthy,
				field{"interval", period(healthy+".interval", &c.Healthy.Interval)},
				threshold(healthy, "successes", &c.Healthy.Successes))
		}},
		field{"unhealthy", func(n *node) {
			d.object(n, unhealthy,
				field{"interval", period(unhealthy+".interval", &c.Unhealthy.Interval)},
				threshold(unhealthy, "http_failures", &c.Unhealthy.HTTPFailures),
				threshold(unhealthy, "tcp_failures", &c.Unhealthy.TCPFailures),
				threshold(unhealthy, "timeouts", &c.Unhealthy.Timeouts))
		}},
	)
	if n.kind == mapping && n.get("statuses") == nil {
		c.Statuses = []int{200, 302}
	}
	for _, v := range [...]struct {
		of  time.Duration
		key string
	}{{c.Healthy.Interval, "healthy"}, {c.Unhealthy.Interval, "unhealthy"}} {
		if v.of != 0 && v.of < MinCheckInterval {
			d.add(n.get(v.key).value.get("interval").value.place, "%sbad duration: want 0s for off, or at least %v", prefix(path+"."+v.key+".interval"), MinCheckInterval)
		}
	}
}

// passiveCheck reads the check that goes by what requests met.
func (d *decoder) passiveCheck(n *node, path string, c *PassiveCheck) {
	*c = PassiveCheck{RecoverAfter: 30 * time.Second}
	unhealthy := path + ".unhealthy"
	threshold := func(key string, into *int) field {
		return field{key, func(n *node) { d.count(n, unhealthy+"."+key, 0, MaxThreshold, into) }}
	}
	d.object(n, path,
		field{"statuses", func(n *node) { c.Statuses = d.statuses(n, path+".statuses") }},
		field{"unhealthy", func(n *node) {
			d.object(n, unhealthy,
				threshold("http_failures", &c.Unhealthy.HTTPFailures),
				threshold("tcp_failures", &c.Unhealthy.TCPFailures),
				threshold("timeouts", &c.Unhealthy.Timeouts))
		}},
		field{"recover_after", func(n *node) {
			if v, ok := d.duration(n, path+".recover_after", 0); ok {
				c.RecoverAfter = v
			}
		}},
	)
	if n.kind == mapping && n.get("statuses") == nil {
		c.Statuses = []int{429, 500, 503}
	}
}

func (d *decoder) statuses(n *node, path string) (all []int) {
	d.few(n, path, MaxStatuses, func(n *node) {
		if v, ok := d.integer(n, path, 100, 599); ok && !slices.Contains(all, int(v)) {
			all = append(all, int(v))
		}
	})
	return all
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c > 0x7e }) < 0
}

// redis reads where counters are shared.
func (d *decoder) redis(n *node, r *Redis) {
	optionalFile := func(key string, into *string) field {
		return field{key, func(n *node) {
			if n.kind != scalar || n.tag != "!!str" || n.value != "" {
				d.file(n, "redis."+key, into)
			}
		}}
	}
	d.object(n, "redis",
		field{"address", func(n *node) {
			if host, port, ok := d.hostPort(n, "redis.address", "127.0.0.1:6379"); ok {
				r.Address = joinHostPort(host, port)
			}
		}},
		field{"username", func(n *node) {
			if s, ok := d.text(n, "redis.username"); ok {
				r.Username = s
			}
		}},
		optionalFile("password_file", &r.PasswordFile),
		field{"tls", func(n *node) { d.boolean(n, "redis.tls", &r.TLS) }},
		optionalFile("ca_file", &r.CAFile),
		field{"db", func(n *node) { d.count(n, "redis.db", 0, MaxRedisDB, &r.DB) }},
		field{"prefix", func(n *node) {
			s, ok := d.text(n, "redis.prefix")
			switch {
			case !ok:
			case len(s) > MaxName:
				d.add(n.place, "redis.prefix: longer than %d bytes", MaxName)
			default:
				r.Prefix = s
			}
		}},
		field{"timeout", func(n *node) {
			if v, ok := d.duration(n, "redis.timeout", time.Millisecond); ok && v > MaxRedisTimeout {
				d.add(n.place, "redis.timeout: bad duration %q: want 1ms to %v", n.value, MaxRedisTimeout)
			} else if ok {
				r.Timeout = v
			}
		}},
	)
	if n.kind != mapping {
		return
	}
	if r.CAFile != "" && !r.TLS {
		d.add(n.get("ca_file").place, "redis.ca_file is for tls: true")
	}
	if r.Username != "" && r.PasswordFile == "" {
		d.add(n.get("username").place, "redis.username needs a password_file")
	}
}
