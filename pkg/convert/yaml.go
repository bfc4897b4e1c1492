package convert

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sallyport/pkg/config"
)

// WriteYAML writes the draft, commented, in a stable order.
func WriteYAML(to io.Writer, d *Draft) error {
	w := &writer{}
	w.line(0, "version: 1")
	w.line(0, "default: deny")
	w.gap()
	w.comment(0, d.Head)
	if d.MinTLS != "" || len(d.UpstreamCAFiles) > 0 {
		w.gap()
		w.line(0, "tls:")
		w.field(2, "min_version", d.MinTLS != "", func() string { return strconv.Quote(d.MinTLS) })
		w.field(2, "upstream_ca_files", len(d.UpstreamCAFiles) > 0, func() string { return flow(d.UpstreamCAFiles) })
	}
	if d.Redis != nil {
		w.redis(d.Redis)
	}
	if d.Timeouts != nil {
		w.gap()
		w.comment(0, []string{"The gateway's own timeouts, where it was not told others."})
		w.line(0, "defaults:")
		w.line(2, "timeouts: "+timeouts(d.Timeouts))
	}
	if len(d.Workloads) > 0 {
		w.gap()
		w.line(0, "workloads:")
		for _, l := range d.Workloads {
			w.comment(2, l.Comment)
			w.line(2, scalar(l.Name)+": {}")
		}
	}
	if len(d.Upstreams) > 0 {
		w.gap()
		w.line(0, "upstreams:")
		for i := range d.Upstreams {
			w.upstream(&d.Upstreams[i])
		}
	}
	w.gap()
	if len(d.Rules) == 0 {
		w.line(0, "rules: []")
	} else {
		w.line(0, "rules:")
	}
	for i := range d.Rules {
		if i > 0 {
			w.gap()
		}
		w.rule(&d.Rules[i])
	}
	_, err := io.WriteString(to, w.b.String())
	return err
}

type writer struct{ b strings.Builder }

func (w *writer) line(indent int, text string) {
	w.b.WriteString(strings.Repeat(" ", indent))
	w.b.WriteString(text)
	w.b.WriteByte('\n')
}

// gap writes an empty line, unless one is there.
func (w *writer) gap() {
	if !strings.HasSuffix(w.b.String(), "\n\n") {
		w.b.WriteByte('\n')
	}
}

func (w *writer) comment(indent int, lines []string) {
	for i, line := range lines {
		if slices.Contains(lines[:i], line) {
			continue
		}
		// What a source says may hold anything.
		line = strings.Map(func(c rune) rune {
			if c < ' ' || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffd {
				return ' '
			}
			return c
		}, strings.ToValidUTF8(line, " "))
		w.line(indent, strings.TrimRight("# "+line, " "))
	}
}

func (w *writer) field(indent int, key string, set bool, value func() string) {
	if set {
		w.line(indent, key+": "+value())
	}
}

func (w *writer) redis(r *config.Redis) {
	parts := []string{"address: " + scalar(r.Address)}
	if r.Username != "" {
		parts = append(parts, "username: "+scalar(r.Username))
	}
	if r.PasswordFile != "" {
		parts = append(parts, "password_file: "+scalar(r.PasswordFile))
	}
	if r.TLS {
		parts = append(parts, "tls: true")
	}
	if r.DB != 0 {
		parts = append(parts, "db: "+strconv.Itoa(r.DB))
	}
	if r.Timeout != 0 {
		parts = append(parts, "timeout: "+duration(r.Timeout))
	}
	w.gap()
	w.line(0, "redis: { "+strings.Join(parts, ", ")+" }")
}

func (w *writer) upstream(u *Upstream) {
	w.comment(2, u.Comment)
	w.line(2, scalar(u.Name)+":")
	w.line(4, "algorithm: "+string(u.Algorithm))
	w.field(4, "hash_on", u.Algorithm == config.ConsistentHash, func() string {
		if u.HashOn.By == config.HashHeader {
			return scalar("header:" + u.HashOn.Header)
		}
		return string(u.HashOn.By)
	})
	w.line(4, "targets:")
	for _, t := range u.Targets {
		host := t.Host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		w.line(6, fmt.Sprintf("- { target: %q, weight: %d }", host+":"+strconv.Itoa(int(t.Port)), t.Weight))
	}
	w.field(4, "preserve_host", u.PreserveHost, func() string { return "true" })
	w.field(4, "slow_start", u.SlowStart > 0, func() string { return duration(u.SlowStart) })
	if !u.HasActive && !u.HasPassive {
		return
	}
	w.line(4, "healthchecks:")
	if a := &u.Active; u.HasActive {
		w.line(6, "active:")
		w.field(8, "type", a.Type != "", func() string { return string(a.Type) })
		w.field(8, "http_path", a.HTTPPath != "", func() string { return scalar(a.HTTPPath) })
		w.field(8, "timeout", a.Timeout > 0, func() string { return duration(a.Timeout) })
		w.field(8, "statuses", len(a.Statuses) > 0, func() string { return numbers(a.Statuses) })
		w.line(8, fmt.Sprintf("healthy: { interval: %s, successes: %d }", duration(a.Healthy.Interval), a.Healthy.Successes))
		w.line(8, fmt.Sprintf("unhealthy: { interval: %s, http_failures: %d, tcp_failures: %d, timeouts: %d }",
			duration(a.Unhealthy.Interval), a.Unhealthy.HTTPFailures, a.Unhealthy.TCPFailures, a.Unhealthy.Timeouts))
	}
	if p := &u.Passive; u.HasPassive {
		w.line(6, "passive:")
		w.field(8, "statuses", len(p.Statuses) > 0, func() string { return numbers(p.Statuses) })
		w.line(8, fmt.Sprintf("unhealthy: { http_failures: %d, tcp_failures: %d, timeouts: %d }",
			p.Unhealthy.HTTPFailures, p.Unhealthy.TCPFailures, p.Unhealthy.Timeouts))
		w.line(8, "recover_after: "+duration(p.RecoverAfter))
	}
}

func (w *writer) rule(r *Rule) {
	w.comment(2, r.Comment)
	w.line(2, "- name: "+scalar(r.Name))
	w.line(4, "match:")
	m := &r.Match
	w.field(6, "workloads", len(m.Workloads) > 0, func() string { return flow(m.Workloads) })
	w.field(6, "hosts", len(m.Hosts) > 0, func() string { return flow(m.Hosts) })
	w.field(6, "ports", len(m.Ports) > 0, func() string { return numbers(m.Ports) })
	w.field(6, "protocols", len(m.Protocols) > 0, func() string { return flow(m.Protocols) })
	w.field(6, "methods", len(m.Methods) > 0, func() string { return flow(m.Methods) })
	w.field(6, "paths", len(m.Paths) > 0, func() string {
		all := make([]string, len(m.Paths))
		for i, p := range m.Paths {
			all[i] = p.String()
		}
		return flow(all)
	})
	if len(m.Headers) > 0 {
		w.line(6, "headers:")
		for _, h := range m.Headers {
			w.line(8, scalar(h.Name)+": "+flow(h.Values))
		}
	}
	w.field(6, "when", m.When != "", func() string { return "'" + strings.ReplaceAll(m.When, "'", "''") + "'" })
	if r.Deny {
		w.line(4, "action: deny")
		return
	}
	w.field(4, "private", len(r.Private) > 0, func() string { return flow(r.Private) })
	w.line(4, "action: allow")
	w.stages(&r.Stages)
	w.field(4, "upstream_tls", r.Cert != "", func() string {
		return "{ cert: " + scalar(r.Cert) + ", key: " + scalar(r.Key) + " }"
	})
	w.field(4, "timeouts", r.Timeouts != nil, func() string { return timeouts(r.Timeouts) })
}

// several writes one block after its key, more of them as a list.
func (w *writer) several(key string, blocks []string) {
	if len(blocks) == 1 {
		w.line(4, key+": "+blocks[0])
		return
	}
	if len(blocks) > 0 {
		w.line(4, key+":")
	}
	for _, b := range blocks {
		w.line(6, "- "+b)
	}
}

func (w *writer) stages(s *config.Stages) {
	var blocks []string
	for i := range s.RateLimits {
		blocks = append(blocks, rateLimit(&s.RateLimits[i]))
	}
	w.several("rate_limit", blocks)
	blocks = nil
	for i := range s.Throttles {
		blocks = append(blocks, throttle(&s.Throttles[i]))
	}
	w.several("throttle", blocks)
	if l := s.SizeLimit; l != nil {
		var parts []string
		if l.Request > 0 {
			parts = append(parts, "request: "+l.Request.String())
		}
		if l.Response > 0 {
			parts = append(parts, "response: "+l.Response.String())
		}
		w.line(4, "size_limit: { "+strings.Join(parts, ", ")+" }")
	}
	if h := s.Headers; h != nil {
		w.line(4, "headers:")
		w.changes("request", &h.Request)
		w.changes("response", &h.Response)
	}
	if c := s.Cache; c != nil {
		w.line(4, "cache:")
		w.line(6, "methods: "+flow(c.Methods))
		w.line(6, "statuses: "+numbers(c.Statuses))
		w.field(6, "content_types", len(c.ContentTypes) > 0, func() string { return flow(c.ContentTypes) })
		w.line(6, "ttl: "+duration(c.TTL))
		w.field(6, "force", c.Force, func() string { return "true" })
		w.field(6, "max_body", c.MaxBody > 0, func() string { return c.MaxBody.String() })
	}
	w.field(4, "upstream", s.Upstream != "", func() string { return scalar(s.Upstream) })
	if r := s.Retry; r != nil {
		on := make([]string, len(r.On))
		for i, o := range r.On {
			on[i] = string(o)
		}
		text := fmt.Sprintf("{ attempts: %d, on: %s", r.Attempts, flow(on))
		if r.Backoff > 0 {
			text += ", backoff: " + duration(r.Backoff)
		}
		w.line(4, "retry: "+text+" }")
	}
	if l := s.Log; l != nil {
		w.line(4, fmt.Sprintf("log: { request_body: %t, response_body: %t }", l.RequestBody, l.ResponseBody))
	}
}

func (w *writer) changes(side string, c *config.HeaderChanges) {
	if len(c.Set)+len(c.Add)+len(c.Remove) == 0 {
		return
	}
	w.line(6, side+":")
	for _, f := range []struct {
		key    string
		fields []config.HeaderField
	}{{"set", c.Set}, {"add", c.Add}} {
		if len(f.fields) > 0 {
			w.line(8, f.key+":")
		}
		var names []string
		values := make(map[string][]string)
		for _, h := range f.fields {
			if values[h.Name] == nil {
				names = append(names, h.Name)
			}
			values[h.Name] = append(values[h.Name], h.Value)
		}
		for _, name := range names {
			if v := values[name]; len(v) == 1 {
				w.line(10, scalar(name)+": "+strconv.Quote(v[0]))
			} else {
				w.line(10, scalar(name)+": "+flow(v))
			}
		}
	}
	w.field(8, "remove", len(c.Remove) > 0, func() string { return flow(c.Remove) })
}

// plain is what no YAML reader takes for anything but text.
var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./*+@-]*(:[A-Za-z][A-Za-z0-9_-]*)?$`)
