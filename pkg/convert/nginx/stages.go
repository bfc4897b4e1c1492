package nginx

import (
	"net/textproto"
	"slices"
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

// fieldVariables are those of nginx that ours say too.
var fieldVariables = strings.NewReplacer(
	"$proxy_add_x_forwarded_for", "{forwarded_for}", "$remote_addr", "{client_ip}", "$scheme", "{scheme}", "$http_host", "{host}", "$host", "{host}",
	"$server_port", "{port}", "$request_method", "{method}", "$document_uri", "{path}", "$uri", "{path}", "$query_string", "{query}", "$args", "{query}",
)

// fieldValue writes a value of proxy_set_header with our variables; false where
// it holds others.
func fieldValue(s string) (string, bool) {
	if convert.HasVariable(s) {
		return "", false
	}
	for _, name := range variables(s) {
		plain := "$" + name
		if fieldVariables.Replace(plain) == plain || strings.Contains(fieldVariables.Replace(plain), "$") || !strings.HasSuffix(fieldVariables.Replace(plain), "}") {
			return "", false
		}
		s = strings.ReplaceAll(s, "${"+name+"}", plain)
	}
	return fieldVariables.Replace(s), true
}

// variables gives the names behind the dollars of s.
func variables(s string) (all []string) {
	for {
		_, rest, ok := strings.Cut(s, "$")
		if !ok {
			return all
		}
		rest = strings.TrimPrefix(rest, "{")
		n := strings.IndexFunc(rest, func(c rune) bool {
			return c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9')
		})
		if n < 0 {
			n = len(rest)
		}
		all, s = append(all, rest[:n]), rest[n:]
	}
}

// setHeaders carries proxy_set_header.
func (b *build) setHeaders() {
	c := b.c
	for _, d := range b.l.level("proxy_set_header") {
		name, value := textproto.CanonicalMIMEHeaderKey(d.arg(0)), d.arg(1)
		if name == "Host" {
			continue
		}
		if config.OwnField(name) {
			c.notes.Add(d.Place, convert.Tuning, "proxy_set_header %s: belongs to the connection, which is our own; nothing to do", name)
			continue
		}
		if value == "" {
			b.remove(name)
			continue
		}
		if strings.EqualFold(value, "$http_"+strings.ReplaceAll(d.arg(0), "-", "_")) {
			// What the program sends passes as it is.
			continue
		}
		text, ok := fieldValue(value)
		if !ok {
			c.lost(d.Place, "proxy_set_header %s %s: not carried: docs/controls.md lists the variables; what a program sends under that name is removed, so that nobody else writes it", name, value)
			b.remove(name)
			continue
		}
		if strings.Contains(text, "{host}") {
			c.changed(d.Place, "proxy_set_header %s: the host that a caller asked for was nginx; here it is the origin", name)
		}
		if strings.Contains(text, "{client_ip}") || strings.Contains(text, "{forwarded_for}") {
			c.changed(d.Place, "proxy_set_header %s: the address is the program's own end of its connection, on loopback; leave the field out if the origin does not need it", name)
		}
		h := &b.headers().Request
		h.Set = append(slices.DeleteFunc(h.Set, func(f config.HeaderField) bool { return f.Name == name }), config.HeaderField{Name: name, Value: strings.TrimSpace(text)})
	}
}

func (b *build) headers() *config.Headers {
	if b.rule.Stages.Headers == nil {
		b.rule.Stages.Headers = &config.Headers{}
	}
	return b.rule.Stages.Headers
}

func (b *build) remove(name string) {
	h := &b.headers().Request
	if !slices.Contains(h.Remove, name) {
		h.Remove = append(h.Remove, name)
	}
}

// responseHeaders carries add_header and proxy_hide_header.
func (b *build) responseHeaders() {
	c, l := b.c, b.l
	for _, d := range l.level("proxy_hide_header") {
		name := textproto.CanonicalMIMEHeaderKey(d.arg(0))
		if !config.OwnField(name) {
			b.headers().Response.Remove = append(b.headers().Response.Remove, name)
		}
	}
	for _, d := range l.level("add_header") {
		name, value := textproto.CanonicalMIMEHeaderKey(d.arg(0)), d.arg(1)
		text, ok := fieldValue(value)
		switch {
		case !ok || config.OwnField(name):
			c.lost(d.Place, "add_header %s %s: not carried: docs/controls.md lists the variables", name, value)
		case value == "":
		default:
			if d.arg(2) != "always" {
				c.changed(d.Place, "add_header %s: written whatever the status is, as with always", name)
			}
			b.headers().Response.Add = append(b.headers().Response.Add, config.HeaderField{Name: name, Value: text})
		}
	}
}

// plainKeys are cache keys that tell requests apart as ours do.
var plainKeys = []string{
	"$scheme$proxy_host$request_uri", "$scheme$proxy_host$uri$is_args$args", "$scheme$host$request_uri", "$host$request_uri", "$scheme$request_method$host$request_uri",
	"$scheme://$host$request_uri", "$proxy_host$request_uri", "$request_uri", "$uri$is_args$args",
}

func (b *build) cache() {
	c, l := b.c, b.l
	d := l.last("proxy_cache")
	if d == nil || d.arg(0) == "off" {
		return
	}
	if key := l.last("proxy_cache_key"); key != nil && !slices.Contains(plainKeys, key.arg(0)) {
		c.lost(key.Place, "proxy_cache_key: not carried, and so the cache neither: answers are told apart by workload, URL and Vary; set `cache` by hand if that is enough")
		return
	}
	for _, name := range []string{"proxy_cache_bypass", "proxy_no_cache"} {
		if x := l.last(name); x != nil {
			c.lost(x.Place, "%s: not carried, and so the cache neither: what may be stored is for the origin to say (Cache-Control); set `cache` by hand if it does", name)
			return
		}
	}
	r := &config.RuleCache{Methods: []string{"GET", "HEAD"}}
	ttls := l.level("proxy_cache_valid")
	for i, x := range ttls {
		ttl, ok := parseTime(x.arg(len(x.args) - 1))
		if !ok || len(x.args) == 0 {
			continue
		}
		codes := x.args[:len(x.args)-1]
		if len(codes) == 0 {
			codes = []string{"200", "301", "302"}
		}
		for _, code := range codes {
			n, err := strconv.Atoi(code)
			switch {
			case code == "any":
				c.changed(x.Place, "proxy_cache_valid any: carried for 200, 301, 302, 404 and 410")
				for _, n := range []int{200, 301, 302, 404, 410} {
					r.Statuses = appendInt(r.Statuses, n)
				}
			case err != nil || n < 200 || n > 599 || n == 206 || n == 304:
				c.lost(x.Place, "proxy_cache_valid %s: such answers are never stored", code)
			default:
				r.Statuses = appendInt(r.Statuses, n)
			}
		}
		if i > 0 && ttl != r.TTL {
			c.changed(x.Place, "proxy_cache_valid: one ttl holds for all statuses, the shortest")
		}
		if i == 0 || ttl < r.TTL {
			r.TTL = min(ttl, config.MaxTimeout)
		}
	}
	if len(r.Statuses) == 0 {
		// Only what says how long it is fresh was stored.
		r.Statuses = []int{200, 301, 302}
	}
	if x := l.last("proxy_ignore_headers"); x != nil {
		r.Force = slices.Contains(x.args, "Cache-Control") && slices.Contains(x.args, "Expires")
		c.changed(x.Place, "proxy_ignore_headers: with Cache-Control and Expires it becomes force: true, but never what is no-store, private, sets cookies or was asked for with Authorization")
	}
	r.ContentTypes = []string{"text/plain", "text/html", "text/css", "application/json", "application/javascript", "application/xml"}
	c.changed(d.Place, "proxy_cache: kept in memory (cache.max_bytes) for each workload apart, for the content_types that are listed: nginx stored any; add those that you need")
	b.rule.Stages.Cache = r
}

func appendInt(all []int, n int) []int {
	if slices.Contains(all, n) {
		return all
	}
	return append(all, n)
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
