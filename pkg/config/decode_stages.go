package config

import (
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// off is what a rule writes in place of a stage that `defaults` has and that it
// does without.
const off = "off"

// stageKeys are the keys of stages, in the order in which they act.
var stageKeys = []string{
	"auth", "size_limit", "rate_limit", "throttle", "content_filter", "secrets", "headers", "cache",
	"upstream", "retry", "log",
}

// stages gives the keys of the stages that a rule or `defaults` has, path being
// that mapping's. without gets the keys that are off; it may be nil.
func (d *decoder) stages(path string, s *Stages, without *[]string) []field {
	stage := func(key string, read func(n *node, path string)) field {
		return field{key, func(n *node) {
			if n.isOff() {
				if without != nil {
					*without = append(*without, key)
				}
				return
			}
			read(n, joined(path, key))
		}}
	}
	return []field{
		stage("auth", func(n *node, path string) { s.Auth = d.auth(n, path) }),
		stage("size_limit", func(n *node, path string) { s.SizeLimit = d.sizeLimit(n, path) }),
		stage("rate_limit", func(n *node, path string) {
			d.few(n, path, MaxLimits, func(n *node) { s.RateLimits = append(s.RateLimits, d.rateLimit(n, path)) })
		}),
		stage("throttle", func(n *node, path string) {
			d.few(n, path, MaxLimits, func(n *node) { s.Throttles = append(s.Throttles, d.throttle(n, path)) })
		}),
		stage("content_filter", func(n *node, path string) { s.ContentFilters = d.contentFilters(n, path) }),
		stage("secrets", func(n *node, path string) {
			word(d, n, path, &s.Secrets, FilterBlock, FilterRedact, FilterReport)
		}),
		stage("headers", func(n *node, path string) {
			if s.Headers = d.headerChanges(n, path); s.Headers == nil && without != nil {
				*without = append(*without, "headers")
			}
		}),
		stage("cache", func(n *node, path string) { s.Cache = d.ruleCache(n, path) }),
		stage("upstream", func(n *node, path string) { d.identifier(n, path, MaxName, upstreamBytes, &s.Upstream) }),
		stage("retry", func(n *node, path string) { s.Retry = d.retry(n, path) }),
		stage("log", func(n *node, path string) { s.Log = d.bodyLog(n, path) }),
	}
}

// isOff reports whether the value is off, or false, which is what YAML 1.1 reads
// off as: tools that write files anew may have made that of it.
func (n *node) isOff() bool {
	return n.kind == scalar && (n.tag == "!!str" && n.value == off || n.tag == "!!bool" && strings.EqualFold(n.value, "false"))
}

// few is some for a list of at most so many items.
func (d *decoder) few(n *node, path string, most int, each func(n *node)) {
	if n.kind == list && len(n.items) > most {
		d.add(n.place, "%smore than %d", prefix(path), most)
		return
	}
	if n.kind == list && len(n.items) == 0 {
		d.add(n.place, "%sempty list: leave the key out", prefix(path))
		return
	}
	d.items(n, path, each)
}

// count reads a number into an int.
func (d *decoder) count(n *node, path string, low, high int, into *int) {
	if v, ok := d.integer(n, path, int64(low), int64(high)); ok {
		*into = int(v)
	}
}

// headerName reads the name of a field and gives it in canonical MIME form.
func (d *decoder) headerName(n *node, path string) (string, bool) {
	s, ok := d.text(n, path)
	if !ok {
		return "", false
	}
	if !isToken(s) {
		d.add(n.place, "%s%q is no header name", prefix(path), s)
		return "", false
	}
	return textproto.CanonicalMIMEHeaderKey(s), true
}

func isToken(s string) bool { return s != "" && strings.Trim(s, tokenBytes) == "" }

// headerKey is what a key of a counter or a hash writes before a field's name.
const headerKey = "header:"

// keyed reads one of a few words, or header:NAME, for which word is "header".
func keyed[T ~string](d *decoder, n *node, path string, header T, words ...T) (word T, name string) {
	s, ok := d.text(n, path)
	if !ok {
		return "", ""
	}
	if rest, ok := strings.CutPrefix(s, headerKey); ok {
		if !isToken(rest) {
			d.add(n.place, "%s%q: %q is no header name", prefix(path), s, rest)
			return "", ""
		}
		return header, textproto.CanonicalMIMEHeaderKey(rest)
	}
	names := make([]string, len(words), len(words)+1)
	for i, w := range words {
		if T(s) == w {
			return w, ""
		}
		names[i] = string(w)
	}
	names = append(names, headerKey+"NAME")
	d.add(n.place, "%swant %s, found %q%s", prefix(path), quoted(names), s, suggest(s, names[:len(words)]))
	return "", ""
}

func (d *decoder) counterKey(n *node, path string, into *CounterKey) {
	if by, name := keyed(d, n, path, ByHeader, ByWorkload, ByRule, ByHost); by != "" {
		*into = CounterKey{by, name}
	}
}

func (d *decoder) auth(n *node, path string) *Auth {
	a := &Auth{}
	d.object(n, path,
		field{"header", func(n *node) {
			name, ok := d.headerName(n, path+".header")
			if why := unchangeable(name); ok && why != "" {
				d.add(n.place, "%s%q %s", prefix(path+".header"), name, why)
			} else if ok {
				a.Header = name
			}
		}},
		field{"secret_file", func(n *node) { d.file(n, path+".secret_file", &a.SecretFile) }},
	)
	d.needs(n, path, "header", "secret_file")
	return a
}

// needs reports keys that a mapping cannot do without.
func (d *decoder) needs(n *node, path string, keys ...string) {
	if n.kind != mapping {
		return
	}
	for _, key := range keys {
		if n.get(key) == nil {
			what := prefix(path)
			if what == "" {
				what = "an upstream "
			}
			d.add(n.place, "%sneeds %q", what, key)
		}
	}
}

func (d *decoder) rateLimit(n *node, path string) RateLimit {
	l := RateLimit{By: CounterKey{By: ByWorkload}, Policy: LocalCounters, FaultTolerant: true}
	windows := [...]struct {
		key  string
		into *int64
	}{{"second", &l.Second}, {"minute", &l.Minute}, {"hour", &l.Hour}, {"day", &l.Day}}
	fields := []field{
		{"by", func(n *node) { d.counterKey(n, path+".by", &l.By) }},
		{"policy", func(n *node) { word(d, n, path+".policy", &l.Policy, LocalCounters, RedisCounters) }},
		{"hide_client_headers", func(n *node) { d.boolean(n, path+".hide_client_headers", &l.HideClientHeaders) }},
		{"fault_tolerant", func(n *node) { d.boolean(n, path+".fault_tolerant", &l.FaultTolerant) }},
	}
	before := len(d.errs)
	for _, w := range windows {
		fields = append(fields, field{w.key, func(n *node) {
			if v, ok := d.integer(n, path+"."+w.key, 0, MaxRequests); ok {
				*w.into = v
			}
		}})
	}
	d.object(n, path, fields...)
	if len(d.errs) > before {
		return l
	}
	// As in Kong: a window that can never be the one that refuses is a mistake.
	last, of := int64(0), ""
	for _, w := range windows {
		switch {
		case *w.into == 0:
		case *w.into < last:
			d.add(n.get(w.key).value.place, "%s%d each %s is lower than %d each %s, which could never be reached",
				prefix(path+"."+w.key), *w.into, w.key, last, of)
			return l
		default:
			last, of = *w.into, w.key
		}
	}
	if of == "" {
		d.add(n.place, "%sbounds nothing: give second, minute, hour or day", prefix(path))
	}
	return l
}

func (d *decoder) throttle(n *node, path string) Throttle {
	t := Throttle{By: CounterKey{By: ByWorkload}, Status: 429}
	nodelay := false
	d.object(n, path,
		field{"rate", func(n *node) { d.rate(n, path+".rate", &t) }},
		field{"burst", func(n *node) {
			if v, ok := d.integer(n, path+".burst", 0, MaxBurst); ok {
				t.Burst = v
			}
		}},
		field{"nodelay", func(n *node) { d.boolean(n, path+".nodelay", &nodelay) }},
		field{"delay", func(n *node) {
			if v, ok := d.integer(n, path+".delay", 0, MaxBurst); ok {
				t.Delay = v
			}
		}},
		field{"by", func(n *node) { d.counterKey(n, path+".by", &t.By) }},
		field{"status", func(n *node) { d.count(n, path+".status", 400, 599, &t.Status) }},
	)
	d.needs(n, path, "rate")
	if nodelay && n.get("delay") != nil {
		d.add(n.get("delay").place, "%snodelay says that nothing is delayed: give one of the two", prefix(path+".delay"))
	}
	// nginx takes a delay beyond the burst, and refuses what is beyond that first.
	if nodelay || t.Delay > t.Burst {
		t.Delay = t.Burst
	}
	return t
}

// rate reads 10r/s or 30r/m.
func (d *decoder) rate(n *node, path string, t *Throttle) {
	if n.kind != scalar || n.tag != "!!str" {
		d.add(n.place, "%swant a rate such as 10r/s or 30r/m, found %s", prefix(path), n.found())
		return
	}
	per := time.Second
	digits, ok := strings.CutSuffix(n.value, "r/s")
	if !ok {
		per = time.Minute
		digits, ok = strings.CutSuffix(n.value, "r/m")
	}
	v, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || v == 0 || v > MaxRate {
		d.add(n.place, "%sbad rate %q: want 1r/s to %dr/s, or r/m for a minute", prefix(path), n.value, MaxRate)
		return
	}
	t.Requests, t.Per = int64(v), per
}

func (d *decoder) sizeLimit(n *node, path string) *SizeLimit {
	l := &SizeLimit{}
	before := len(d.errs)
	d.object(n, path,
		field{"request", func(n *node) { d.size(n, path+".request", 0, MaxBody, &l.Request) }},
		field{"response", func(n *node) { d.size(n, path+".response", 0, MaxBody, &l.Response) }},
	)
	if len(d.errs) == before && *l == (SizeLimit{}) {
		d.add(n.place, "%sbounds nothing: give request or response", prefix(path))
	}
	return l
}

func (d *decoder) retry(n *node, path string) *Retry {
	r := &Retry{Attempts: 3, Backoff: 100 * time.Millisecond}
	d.object(n, path,
		field{"attempts", func(n *node) { d.count(n, path+".attempts", 2, MaxAttempts, &r.Attempts) }},
		field{"on", func(n *node) {
			d.few(n, path+".on", MaxFew, func(n *node) {
				switch {
				case n.kind == scalar && n.value == string(RetryConnect):
					r.On = append(r.On, RetryConnect)
				case n.kind == scalar && isFailure(n.value):
					r.On = append(r.On, RetryOn(n.value))
				default:
					d.add(n.place, "%swant connect or a status from 400 to 599, found %s", prefix(path+".on"), n.found())
				}
			})
		}},
		field{"backoff", func(n *node) {
			if v, ok := d.duration(n, path+".backoff", 0); ok && v > MaxBackoff {
				d.add(n.place, "%sbad duration %q: want 0s to %v", prefix(path+".backoff"), n.value, MaxBackoff)
			} else if ok {
				r.Backoff = v
			}
		}},
	)
	if n.kind == mapping && n.get("on") == nil {
		r.On = []RetryOn{RetryConnect, "502", "503", "504"}
	}
	return r
}

// isFailure reports whether s is a status of three digits from 400 to 599.
func isFailure(s string) bool {
	return len(s) == 3 && (s[0] == '4' || s[0] == '5') && '0' <= s[1] && s[1] <= '9' && '0' <= s[2] && s[2] <= '9'
}

func (d *decoder) bodyLog(n *node, path string) *BodyLog {
	l := &BodyLog{MaxBody: 64e3}
	d.object(n, path,
		field{"request_body", func(n *node) { d.boolean(n, path+".request_body", &l.RequestBody) }},
		field{"response_body", func(n *node) { d.boolean(n, path+".response_body", &l.ResponseBody) }},
		field{"max_body", func(n *node) { d.size(n, path+".max_body", 1, MaxLoggedBody, &l.MaxBody) }},
		field{"redact", func(n *node) {
			if n.kind == list && len(n.items) > MaxFew {
				d.add(n.place, "%smore than %d", prefix(path+".redact"), MaxFew)
				return
			}
			d.items(n, path+".redact", func(n *node) {
				if r, ok := d.redaction(n, path+".redact"); ok {
					l.Redact = append(l.Redact, r)
				}
			})
		}},
	)
	return l
}

// redaction reads a JSON path or header:NAME.
func (d *decoder) redaction(n *node, path string) (r Redaction, ok bool) {
	s, ok := d.text(n, path)
	if !ok {
		return r, false
	}
	if name, ok := strings.CutPrefix(s, headerKey); ok {
		if !isToken(name) {
			d.add(n.place, "%s%q: %q is no header name", prefix(path), s, name)
			return r, false
		}
		return Redaction{Header: textproto.CanonicalMIMEHeaderKey(name)}, true
	}
	if !strings.HasPrefix(s, "$") {
		d.add(n.place, "%swant a JSON path such as $.password, or header:NAME, found %q", prefix(path), s)
		return r, false
	}
	if _, err := ParseJSONPath(s); err != nil {
		d.add(n.place, "%s%v", prefix(path), err)
		return r, false
	}
	return Redaction{Path: s}, true
}
