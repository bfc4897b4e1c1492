package nginx

import (
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// stages carries what was done with each request.
func (b *build) stages() {
	b.limitReq()
	b.bodySize()
	b.setHeaders()
	b.responseHeaders()
	b.cache()
	b.timeouts()
}

// parseSize reads 10M, 512k or 1g, whose units are powers of two.
func parseSize(s string) (config.Size, bool) {
	unit := int64(1)
	switch {
	case strings.HasSuffix(s, "k"), strings.HasSuffix(s, "K"):
		unit = 1 << 10
	case strings.HasSuffix(s, "m"), strings.HasSuffix(s, "M"):
		unit = 1 << 20
	case strings.HasSuffix(s, "g"), strings.HasSuffix(s, "G"):
		unit = 1 << 30
	}
	digits := s
	if unit > 1 {
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > int64(config.MaxBody)/unit {
		return 0, false
	}
	return config.Size(n * unit), true
}

// timeUnits of nginx; a number alone is seconds.
var timeUnits = []struct {
	name string
	is   time.Duration
}{
	{"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour},
	{"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}, {"M", 30 * 24 * time.Hour}, {"y", 365 * 24 * time.Hour},
}

// parseTime reads 60s, 1h30m or 75.
func parseTime(s string) (total time.Duration, ok bool) {
	if s == "" {
		return 0, false
	}
	for s != "" {
		i := strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' })
		if i == 0 {
			return 0, false
		}
		digits, unit := s, time.Second
		if i < 0 {
			s = ""
		} else {
			digits, s = s[:i], s[i:]
			found := false
			for _, u := range timeUnits {
				if rest, has := strings.CutPrefix(s, u.name); has {
					unit, s, found = u.is, strings.TrimLeft(rest, " "), true
					break
				}
			}
			if !found {
				return 0, false
			}
		}
		n, err := strconv.ParseInt(digits, 10, 32)
		if err != nil {
			return 0, false
		}
		total += time.Duration(n) * unit
		if total > 1000*24*time.Hour || total < 0 {
			total = 1000 * 24 * time.Hour
		}
	}
	return total, true
}

// A zone is a limit_req_zone.
type zone struct {
	*directive
	name string
	by   config.CounterKey
	rate int64
	per  time.Duration
}

func (c *conversion) zone(d *directive) *zone {
	z := &zone{directive: d, by: config.CounterKey{By: config.ByRule}}
	for _, a := range d.args[min(1, len(d.args)):] {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "zone":
			z.name, _, _ = strings.Cut(value, ":")
		case "rate":
			digits, unit := strings.CutSuffix(value, "r/s")
			z.per = time.Second
			if !unit {
				digits, unit = strings.CutSuffix(value, "r/m")
				z.per = time.Minute
			}
			if n, err := strconv.ParseInt(digits, 10, 32); err == nil && unit && n > 0 {
				z.rate = n
			}
		case "sync":
			c.changed(d.Place, "limit_req_zone: sync: each host counts for itself")
		}
	}
	if z.name == "" || z.rate == 0 {
		c.lost(d.Place, "limit_req_zone: no zone with a rate such as 10r/s")
		return nil
	}
	if z.rate > config.MaxRate {
		z.rate = config.MaxRate
		c.changed(d.Place, "limit_req_zone: carried as %d, the most there is", z.rate)
	}
	switch key := d.arg(0); {
	case key == "$binary_remote_addr" || key == "$remote_addr":
		z.by = config.CounterKey{By: config.ByWorkload}
	case strings.HasPrefix(key, "$http_") && key != "$http_host":
		z.by = config.CounterKey{By: config.ByHeader, Header: headerOf(key)}
	}
	return z
}

// headerOf gives the field that $http_x_y stands for.
func headerOf(variable string) string {
	return textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(strings.TrimPrefix(variable, "$http_"), "_", "-"))
}

func (b *build) limitReq() {
	c, l := b.c, b.l
	all := l.level("limit_req")
	if len(all) == 0 {
		return
	}
	if d := l.last("limit_req_dry_run"); d != nil && d.arg(0) == "on" {
		c.changed(d.Place, "limit_req_dry_run: nginx only logged; not carried: observe such a rule with mode: observe")
		return
	}
	status := 503
	if n, err := strconv.Atoi(l.value("limit_req_status", "503")); err == nil && n >= 400 && n <= 599 {
		status = n
	}
	for _, d := range all {
		t := config.Throttle{Status: status}
		var z *zone
		nodelay, known := false, true
		for _, a := range d.args {
			key, value, _ := strings.Cut(a, "=")
			n, err := strconv.ParseInt(value, 10, 64)
			switch {
			case key == "zone":
				z = c.zones[value]
			case key == "burst" && err == nil && n >= 0:
				t.Burst = min(n, config.MaxBurst)
			case key == "nodelay":
				nodelay = true
			case key == "delay" && err == nil && n >= 0:
				t.Delay = n
			default:
				known = false
			}
		}
		if z == nil || !known {
			b.gates = append(b.gates, convert.Gate{Place: d.Place, Reason: "limit_req " + strings.Join(d.args, " ")})
			c.lost(d.Place, "limit_req %s: not carried: its zone or a parameter is not known; until you name workloads the rules here allow nobody", strings.Join(d.args, " "))
			continue
		}
		if t.Delay = min(t.Delay, t.Burst); nodelay {
			t.Delay = t.Burst
		}
		t.Requests, t.Per, t.By = z.rate, z.per, z.by
		switch {
		case z.by.By == config.ByWorkload:
			c.changed(z.Place, "limit_req_zone %s: counted by caller's address; carried as by: workload, which is what a caller is here", z.arg(0))
		case z.by.By == config.ByRule:
			c.changed(z.Place, "limit_req_zone %s: carried as by: rule, one count for all, which never lets more through", z.arg(0))
		}
		b.rule.Shared = append(b.rule.Shared, convert.Shared{
			ID: "zone " + z.name, Place: z.Place, What: "limit_req zone=" + z.name, Rate: -1, Throttle: len(b.rule.Stages.Throttles),
		})
		b.rule.Stages.Throttles = append(b.rule.Stages.Throttles, t)
	}
}

func (b *build) bodySize() {
	c, l := b.c, b.l
	text := l.value("client_max_body_size", "")
	if text == "" {
		// nginx's own default, which nobody wrote down.
		b.rule.Stages.SizeLimit = &config.SizeLimit{Request: 1 << 20}
		b.rule.Comment = append(b.rule.Comment, "1MiB is nginx's own client_max_body_size.")
		return
	}
	size, ok := parseSize(text)
	if !ok {
		d := l.last("client_max_body_size")
		b.gates = append(b.gates, convert.Gate{Place: d.Place, Reason: "client_max_body_size " + text})
		c.lost(d.Place, "client_max_body_size %s: no size such as 10m; until you name workloads the rules here allow nobody", text)
		return
	}
	if size > 0 {
		b.rule.Stages.SizeLimit = &config.SizeLimit{Request: size}
	}
}

func (b *build) timeouts() {
	c, l := b.c, b.l
	of := func(name string) time.Duration {
		d := l.last(name)
		if d == nil {
			return nginxTimeout
		}
		v, ok := parseTime(d.arg(0))
		switch {
		case !ok || v == 0:
			c.changed(d.Place, "%s %s: no time such as 60s; 60s holds", name, d.arg(0))
			return nginxTimeout
		case v > config.MaxTimeout:
			c.changed(d.Place, "%s %s: carried as %v, the most there is", name, d.arg(0), config.MaxTimeout)
			return config.MaxTimeout
		}
		return v
	}
	connect, read := of("proxy_connect_timeout"), of("proxy_read_timeout")
	if connect != nginxTimeout || read != nginxTimeout {
		idle := read
		b.rule.Timeouts = &convert.Timeouts{Connect: &connect, ResponseHeader: &read, StreamIdle: &idle}
	}
}
