package nginx

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// single makes an upstream of one host.
func single(host string, port int) *convert.Upstream {
	u := &convert.Upstream{}
	u.Name, u.Algorithm = convert.Name(host), config.RoundRobin
	u.Targets = []config.Target{{Host: host, Port: uint16(port), Weight: 100}}
	return u
}

// group converts an upstream block; nil where nothing can be sent to it.
func (c *conversion) group(d *directive, secure bool) *convert.Upstream {
	u := &convert.Upstream{Comment: []string{fmt.Sprintf("upstream %s (%s).", d.arg(0), d.Place)}}
	u.Name = convert.Name(d.arg(0))
	u.Algorithm = config.RoundRobin
	var tuned []*directive
	fails, pause := -1, time.Duration(0)
	for _, x := range d.block {
		switch x.name {
		case "server":
			t, f, p, ok := c.groupServer(x, secure)
			if !ok {
				continue
			}
			if slices.ContainsFunc(u.Targets, func(o config.Target) bool { return o.Host == t.Host && o.Port == t.Port }) {
				continue
			}
			u.Targets = append(u.Targets, t)
			if fails >= 0 && (fails != f || pause != p) {
				c.changed(x.Place, "server %s: max_fails and fail_timeout of the first server hold for all", x.arg(0))
			} else {
				fails, pause = f, p
			}
		case "least_conn", "least_time":
			u.Algorithm = config.LeastConn
		case "random":
			u.Algorithm = config.Random
		case "ip_hash":
			u.Algorithm, u.HashOn = config.ConsistentHash, config.HashKey{By: config.HashWorkload}
			c.changed(x.Place, "ip_hash: carried as hash_on: workload, which is what a caller is here")
		case "hash":
			c.hash(x, u)
		case "include":
			c.lost(x.Place, "include %s: not carried: it cannot be read (%s): targets may be missing", x.arg(0), x.arg(1))
		case "keepalive", "keepalive_requests", "keepalive_timeout", "keepalive_time", "zone", "resolver", "resolver_timeout", "state":
			tuned = append(tuned, x)
		default:
			c.lost(x.Place, "upstream %s: %s: not carried; choose algorithm, weights and healthchecks by hand", d.arg(0), x.name)
		}
	}
	if c.surveyed[d] == nil {
		c.surveyed[d] = []convert.Gate{}
		c.noteTuning(tuned)
	}
	if len(u.Targets) == 0 {
		c.lost(d.Place, "upstream %s: no server that could be asked; what passes to it is left out", d.arg(0))
		return nil
	}
	if len(u.Targets) > 1 && fails > 0 {
		u.HasPassive = true
		u.Passive.Unhealthy.TCPFailures, u.Passive.Unhealthy.Timeouts = min(fails, config.MaxThreshold), min(fails, config.MaxThreshold)
		u.Passive.RecoverAfter = pause
	}
	return u
}

// groupServer reads a server of an upstream: its target, max_fails and
// fail_timeout.
func (c *conversion) groupServer(d *directive, secure bool) (t config.Target, fails int, pause time.Duration, ok bool) {
	fails, pause = 1, 10*time.Second
	t.Weight = 1
	address := d.arg(0)
	if strings.HasPrefix(address, "unix:") {
		c.lost(d.Place, "server %s: sockets of the host are no origin that is captured; left out", address)
		return t, 0, 0, false
	}
	// nginx takes port 80 here even for https.
	host, port, good := hostPort(address, 80)
	if !good {
		c.lost(d.Place, "server %s: no host that could be asked for; left out", address)
		return t, 0, 0, false
	}
	t.Host, t.Port = host, uint16(port)
	for _, a := range d.args[1:] {
		key, value, _ := strings.Cut(a, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "weight":
			t.Weight = min(max(n, 1), config.MaxWeight)
		case "max_fails":
			fails = n
		case "fail_timeout":
			if p, ok := parseTime(value); ok {
				pause = p
			}
		case "down":
			return t, 0, 0, false
		case "backup":
			c.lost(d.Place, "server %s: backup: not carried: there are no targets that only stand by; left out: give it a small weight instead", address)
			return t, 0, 0, false
		case "resolve":
		default:
			c.changed(d.Place, "server %s: %s: not carried", address, a)
		}
	}
	if secure && isAddress(host) {
		c.changed(d.Place, "server %s: an address: its certificate must be for that address, since each target is verified under its own name; name the host instead", address)
	}
	return t, fails, pause, true
}

// hash chooses what keeps requests together.
func (c *conversion) hash(d *directive, u *convert.Upstream) {
	switch key := strings.Trim(d.arg(0), `"`); {
	case key == "$remote_addr" || key == "$binary_remote_addr":
		u.Algorithm, u.HashOn = config.ConsistentHash, config.HashKey{By: config.HashWorkload}
		c.changed(d.Place, "hash %s: carried as hash_on: workload, which is what a caller is here", key)
	case key == "$request_uri" || key == "$uri" || key == "$scheme$proxy_host$request_uri":
		u.Algorithm, u.HashOn = config.ConsistentHash, config.HashKey{By: config.HashPath}
	case strings.HasPrefix(key, "$http_"):
		u.Algorithm, u.HashOn = config.ConsistentHash, config.HashKey{By: config.HashHeader, Header: headerOf(key)}
	default:
		c.changed(d.Place, "hash %s: not carried; targets take turns: choose hash_on workload, path or header:NAME if requests must stay together", key)
	}
}

// nextUpstream carries when nginx asked the next server.
func (b *build) nextUpstream(u *convert.Upstream) {
	if len(u.Targets) < 2 {
		return
	}
	conditions := []string{"error", "timeout"}
	at := b.pass.Place
	if d := b.l.last("proxy_next_upstream"); d != nil {
		conditions, at = d.args, d.Place
	}
	var on []config.RetryOn
	for _, s := range conditions {
		code, isStatus := strings.CutPrefix(s, "http_")
		switch {
		case s == "off":
			return
		case s == "error" || s == "timeout":
			if !slices.Contains(on, config.RetryConnect) {
				on = append(on, config.RetryConnect)
			}
		case isStatus:
			on = append(on, config.RetryOn(code))
		default:
			b.c.changed(at, "proxy_next_upstream %s: not carried: a request is tried again only while nothing of its body is lost", s)
		}
	}
	attempts := len(u.Targets)
	if n, err := strconv.Atoi(b.l.value("proxy_next_upstream_tries", "0")); err == nil && n > 0 {
		attempts = min(attempts, n)
	}
	if attempts = min(attempts, config.MaxAttempts); attempts > 1 && len(on) > 0 {
		b.rule.Stages.Retry = &config.Retry{Attempts: attempts, On: on}
	}
}
