package kong

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// carried are the plugins that become something.
var carried = map[string]func(b *build, p *plugin){
	"rate-limiting":          (*build).rateLimiting,
	"request-size-limiting":  func(b *build, p *plugin) { b.sizeLimiting(p, false) },
	"response-size-limiting": func(b *build, p *plugin) { b.sizeLimiting(p, true) },
	"ip-restriction":         (*build).ipRestriction,
	"prometheus": func(b *build, p *plugin) {
		b.seen(p, "the same figures, by workload and rule, are on metrics.listen (127.0.0.1:9595/metrics)")
	},
	"file-log":             (*build).fileLog,
	"proxy-cache":          (*build).proxyCache,
	"request-transformer":  (*build).requestTransformer,
	"response-transformer": (*build).responseTransformer,
	"request-termination":  (*build).requestTermination,
}

// callers are plugins that said who may ask.
var callers = []string{
	"key-auth", "key-auth-enc", "basic-auth", "jwt", "jwt-signer", "oauth2", "oauth2-introspection", "openid-connect", "hmac-auth", "ldap-auth", "ldap-auth-advanced",
	"mtls-auth", "acl", "session", "vault-auth", "header-cert-auth", "saml",
}

// watching are plugins that refuse and change nothing: what they wrote is in the
// audit or on the metrics page.
var watching = []string{
	"http-log", "tcp-log", "udp-log", "syslog", "loggly", "kafka-log", "statsd", "statsd-advanced", "datadog", "zipkin", "opentelemetry",
	"correlation-id", "app-dynamics", "request-callout-log",
}

// plugins carries the plugins that hold for the route: of each name the one that
// is nearest.
func (b *build) plugins() {
	for _, p := range b.nearest() {
		if carry := carried[p.name]; carry != nil && !p.mixed {
			carry(b, p)
			continue
		}
		b.uncarried(p)
	}
}

// nearest gives the plugins that hold, in the order of the file.
func (b *build) nearest() (all []*plugin) {
	weight := func(p *plugin) int {
		switch {
		case p.route != "" && p.service != "":
			return 3
		case p.route != "":
			return 2
		case p.service != "":
			return 1
		default:
			return 0
		}
	}
	best := make(map[string]*plugin)
	for _, p := range b.c.file.plugins {
		switch {
		case !p.enabled, p.consumer != "":
		case p.route != "" && !b.way.route.is(p.route), p.service != "" && !b.service.is(p.service):
		case best[p.name] == nil || weight(p) > weight(best[p.name]):
			best[p.name] = p
		}
	}
	for _, p := range b.c.file.plugins {
		if best[p.name] == p {
			all = append(all, p)
		}
	}
	return all
}

// unusedPlugins names the plugins that hold for nothing that is carried.
func (c *conversion) unusedPlugins() {
	for _, p := range c.file.plugins {
		switch {
		case !p.enabled:
		case p.consumer != "":
			c.lost(p.line, "%s of consumer %s: not carried: there are no consumers here; give that program's workload a rule of its own", p.name, p.consumer)
		case p.route != "" && !slices.ContainsFunc(c.routes, func(r *route) bool { return r.is(p.route) }):
			c.lost(p.line, "%s: route %q is nowhere in the file; left out", p.name, p.route)
		case p.service != "" && !slices.ContainsFunc(c.services, func(s *service) bool { return s.is(p.service) }):
			c.lost(p.line, "%s: service %q is nowhere in the file; left out", p.name, p.service)
		}
	}
}

// uncarried names a plugin that has no counterpart. What may have refused
// requests closes the rule until somebody has looked.
func (b *build) uncarried(p *plugin) {
	c := b.c
	switch {
	case slices.Contains(watching, p.name):
		c.lost(p.line, "%s: not carried: the audit has each request (/var/log/sallyport/audit.jsonl; audit.sinks), the metrics page the figures", p.name)
	case p.name == "cors":
		c.changed(p.line, "cors: not carried: it is for browsers, and programs behind the gate are none")
	case slices.Contains(callers, p.name):
		b.gate(p, true, "plugin "+p.name)
		c.lost(p.line, "%s: not carried: programs are known by their cgroup: name those that may in `workloads`; auth: { header, secret_file } asks for a key besides", p.name)
	default:
		b.gate(p, false, "plugin "+p.name)
		c.lost(p.line, "%s: not carried, and it may have refused or changed requests: look what it did; until you name workloads its rules allow nobody", p.name)
	}
}

func (b *build) gate(p *plugin, who bool, reason string) {
	b.gates = append(b.gates, convert.Gate{Callers: who, Place: b.c.at(p.line), Reason: reason})
}

// seen notes a plugin whose work is done without being asked for.
func (b *build) seen(p *plugin, what string) {
	b.c.changed(p.line, "%s: nothing to carry: %s", p.name, what)
}

// options gives the configuration of a plugin, noting what is not known.
func (b *build) options(p *plugin, known ...string) config.Value {
	for _, e := range p.config.Entries() {
		if !slices.Contains(known, e.Key) && !e.Value.IsNull() {
			b.c.lost(e.Line, "%s: %s: not carried; look whether anything is needed in its place", p.name, e.Key)
		}
	}
	return p.config
}

// whole reads a whole number of an option; false where it is absent.
func (b *build) whole(p *plugin, v config.Value, key string) (int64, bool) {
	if v.IsNull() {
		return 0, false
	}
	n, ok := v.Number()
	if !ok || n < 0 {
		b.gate(p, false, "plugin "+p.name+": "+key)
		b.c.lost(v.Line(), "%s: %s: want a number, found %s; until you name workloads its rules allow nobody", p.name, key, v.Found())
		return 0, false
	}
	return int64(n), true
}

func (b *build) texts(v config.Value) (all []string) {
	for _, item := range v.Items() {
		if s, ok := item.Text(); ok {
			all = append(all, s)
		}
	}
	return all
}

// word reads text with a default.
func word(v config.Value, otherwise string) string {
	if s, ok := v.Text(); ok {
		return s
	}
	return otherwise
}

// truth reads a boolean with a default.
func truth(v config.Value, otherwise bool) bool {
	if b, ok := v.Bool(); ok {
		return b
	}
	return otherwise
}

func (b *build) rateLimiting(p *plugin) {
	c := b.c
	o := b.options(p, "second", "minute", "hour", "day", "month", "year", "limit_by", "header_name", "path", "policy", "hide_client_headers",
		"fault_tolerant", "redis", "redis_host", "redis_port", "redis_password", "redis_username", "redis_ssl", "redis_ssl_verify", "redis_timeout",
		"redis_database", "redis_server_name", "error_code", "error_message", "sync_rate")
	l := config.RateLimit{
		By: config.CounterKey{By: config.ByWorkload}, Policy: config.LocalCounters,
		HideClientHeaders: truth(o.Get("hide_client_headers"), false), FaultTolerant: truth(o.Get("fault_tolerant"), true),
	}
	l.Second, _ = b.whole(p, o.Get("second"), "second")
	l.Minute, _ = b.whole(p, o.Get("minute"), "minute")
	l.Hour, _ = b.whole(p, o.Get("hour"), "hour")
	l.Day, _ = b.whole(p, o.Get("day"), "day")
	for _, long := range []struct {
		key  string
		days int64
	}{{"month", 31}, {"year", 366}} {
		n, ok := b.whole(p, o.Get(long.key), long.key)
		if !ok || n == 0 {
			continue
		}
		day := n / long.days
		if day == 0 {
			b.gate(p, false, fmt.Sprintf("plugin rate-limiting: %s: %d", long.key, n))
			c.lost(o.Get(long.key).Line(), "rate-limiting: %s: %d: not carried: windows are at most a day, and less than one a day is none; until you name workloads its rules allow nobody", long.key, n)
			continue
		}
		c.lost(o.Get(long.key).Line(), "rate-limiting: %s: %d: not carried: windows are at most a day; in its place each day has its part, %d, which never lets more through: raise `day` if that is too little", long.key, n, day)
		if l.Day == 0 || day < l.Day {
			l.Day = day
		}
	}
	// A longer window that lets less through bounds the shorter ones too.
	least := int64(0)
	for _, window := range []*int64{&l.Day, &l.Hour, &l.Minute, &l.Second} {
		if *window > 0 && least > 0 && *window > least {
			*window = least
		}
		if *window > 0 {
			least = *window
		}
	}
	if least == 0 {
		return
	}
	id := fmt.Sprintf("rate-limiting:%d", p.line)
	switch limitBy := word(o.Get("limit_by"), "consumer"); limitBy {
	case "consumer", "credential", "ip", "consumer-group":
		c.changed(p.line, "rate-limiting: limit_by %s: carried as by: workload, which is what a caller is here", limitBy)
	case "header":
		l.By = config.CounterKey{By: config.ByHeader, Header: word(o.Get("header_name"), "")}
		if l.By.Header == "" {
			l.By = config.CounterKey{By: config.ByRule}
		}
	case "service":
		l.By = config.CounterKey{By: config.ByRule}
		id += b.service.label()
	default:
		l.By = config.CounterKey{By: config.ByRule}
		c.changed(o.Get("limit_by").Line(), "rate-limiting: limit_by %s: carried as by: rule, one count for all, which never lets more through", limitBy)
	}
	switch policy := word(o.Get("policy"), "local"); policy {
	case "local":
	case "redis":
		l.Policy = config.RedisCounters
		b.redis(p, o)
	default:
		c.changed(o.Get("policy").Line(), "rate-limiting: policy %s: carried as local: where several hosts must share one count, set policy: redis and `redis`", policy)
	}
	if code, ok := b.whole(p, o.Get("error_code"), "error_code"); ok && code != 429 {
		c.changed(o.Get("error_code").Line(), "rate-limiting: error_code %d: refused with 429", code)
	}
	if m := o.Get("error_message"); !m.IsNull() {
		c.changed(m.Line(), "rate-limiting: error_message: the refusal says reason, rule and how to allow it instead")
	}
	b.rule.Shared = append(b.rule.Shared, convert.Shared{
		ID: id, Place: c.at(p.line), What: "rate-limiting", Rate: len(b.rule.Stages.RateLimits), Throttle: -1,
	})
	b.rule.Stages.RateLimits = append(b.rule.Stages.RateLimits, l)
}

// redis carries where counters are shared.
func (b *build) redis(p *plugin, o config.Value) {
	c := b.c
	get := func(key string) config.Value {
		if v := o.Get("redis").Get(key); !v.IsNull() {
			return v
		}
		if key == "database" || key == "host" || key == "port" || key == "password" || key == "username" || key == "ssl" || key == "timeout" {
			return o.Get("redis_" + key)
		}
		return config.Value{}
	}
	r := &config.Redis{Username: word(get("username"), ""), TLS: truth(get("ssl"), false)}
	port, ok := b.whole(p, get("port"), "redis.port")
	if !ok {
		port = 6379
	}
	host := word(get("host"), "127.0.0.1")
	r.Address = bracketed(host) + ":" + strconv.FormatInt(port, 10)
	if db, ok := b.whole(p, get("database"), "redis.database"); ok {
		r.DB = int(db)
	}
	if v := get("password"); !v.IsNull() {
		r.PasswordFile = "/etc/sallyport/redis-password"
		c.changed(v.Line(), "rate-limiting: the password of Redis: write it into %s (root, mode 600)", r.PasswordFile)
	} else if r.Username != "" {
		r.Username = ""
		c.lost(get("username").Line(), "rate-limiting: redis.username without a password: set redis.username and redis.password_file together")
	}
	if had := c.draft.Redis; had != nil && *had != *r {
		c.lost(p.line, "rate-limiting: another Redis than the one before: there is one for all; its counters go to %s", had.Address)
		return
	}
	c.draft.Redis = r
}

func (b *build) sizeLimiting(p *plugin, response bool) {
	o := b.options(p, "allowed_payload_size", "size_unit", "require_content_length")
	n, ok := b.whole(p, o.Get("allowed_payload_size"), "allowed_payload_size")
	if !ok {
		n = 128
	}
	unit := config.Size(1 << 20)
	switch u := word(o.Get("size_unit"), "megabytes"); u {
	case "megabytes":
	case "kilobytes":
		unit = 1 << 10
	case "bytes":
		unit = 1
	default:
		b.gate(p, false, "plugin "+p.name+": size_unit")
		b.c.lost(o.Get("size_unit").Line(), "%s: size_unit %q: not known; until you name workloads its rules allow nobody", p.name, u)
		return
	}
	if truth(o.Get("require_content_length"), false) {
		b.c.changed(o.Get("require_content_length").Line(), "%s: require_content_length: bytes are counted as they come, so a length is not asked for", p.name)
	}
	size := config.Size(n) * unit
	if n > int64(config.MaxBody/unit) {
		size = config.MaxBody
	}
	if size == 0 {
		b.gate(p, false, "plugin "+p.name+": allowed_payload_size: 0")
		b.c.lost(p.line, "%s: allowed_payload_size: 0: no body at all: size_limit has no such thing; until you name workloads its rules allow nobody", p.name)
		return
	}
	if b.rule.Stages.SizeLimit == nil {
		b.rule.Stages.SizeLimit = &config.SizeLimit{}
	}
	if response {
		b.rule.Stages.SizeLimit.Response = size
	} else {
		b.rule.Stages.SizeLimit.Request = size
	}
}

func (b *build) ipRestriction(p *plugin) {
	o := b.options(p, "allow", "deny", "whitelist", "blacklist", "status", "message")
	reason := "ip-restriction:"
	for _, key := range []string{"allow", "deny", "whitelist", "blacklist"} {
		if list := b.texts(o.Get(key)); len(list) > 0 {
			reason += " " + key + " " + strings.Join(list, ", ")
		}
	}
	if reason == "ip-restriction:" {
		return
	}
	b.gate(p, true, reason)
	b.c.lost(p.line, "ip-restriction: not carried: addresses of callers say nothing here (cidrs are of the origin): name the programs that may ask in `workloads`; until then these rules allow nobody")
}

// rawBodies are Lua expressions of which everybody knows what they do.
var rawBodies = map[string]string{
	"return kong.request.get_raw_body()":  "request_body",
	"return kong.response.get_raw_body()": "response_body",
}

func (b *build) fileLog(p *plugin) {
	o := b.options(p, "path", "reopen", "custom_fields_by_lua")
	b.c.changed(p.line, "file-log: the audit has each request, in /var/log/sallyport/audit.jsonl (audit.file.path) instead of %s", word(o.Get("path"), "its path"))
	for _, e := range o.Get("custom_fields_by_lua").Entries() {
		lua, _ := e.Value.Text()
		key := rawBodies[strings.TrimSuffix(strings.TrimSpace(lua), ";")]
		if key == "" {
			b.c.lost(e.Line, "file-log: custom_fields_by_lua: %s: Lua is not carried; docs/coming-from.md lists what each event has", e.Key)
			continue
		}
		if b.rule.Stages.Log == nil {
			b.rule.Stages.Log = &config.BodyLog{}
		}
		if key == "request_body" {
			b.rule.Stages.Log.RequestBody = true
		} else {
			b.rule.Stages.Log.ResponseBody = true
		}
		b.c.lost(e.Line, "file-log: custom_fields_by_lua: %s: Lua is not carried; in its place log: { %s: true } keeps the first 64 kB (max_body), with redact for what must not be kept", e.Key, key)
	}
}

func (b *build) requestTermination(p *plugin) {
	o := b.options(p, "status_code", "message", "body", "content_type", "trigger", "echo")
	if t := o.Get("trigger"); !t.IsNull() {
		b.gate(p, false, "plugin request-termination: trigger "+word(t, ""))
		b.c.lost(t.Line(), "request-termination: trigger: not carried: it refused requests that have a header or parameter of that name; until you name workloads its rules allow nobody")
		return
	}
	b.refused = true
	b.c.changed(p.line, "request-termination: Kong answered with %s itself and sent nothing upstream; requests are refused with 403 (no_rule)", word(o.Get("status_code"), "503"))
}
