package kong

import (
	"fmt"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

func (b *build) proxyCache(p *plugin) {
	c := b.c
	o := b.options(p, "response_code", "request_method", "content_type", "cache_ttl", "strategy", "cache_control", "storage_ttl", "memory",
		"vary_headers", "vary_query_params", "response_headers", "ignore_uri_case")
	for _, key := range []string{"vary_headers"} {
		if v := o.Get(key); len(v.Items()) > 0 {
			c.lost(v.Line(), "proxy-cache: %s: not carried, so neither is the cache: answers are told apart by the origin's Vary only; set `cache` by hand if it sends that", key)
			return
		}
	}
	r := &config.RuleCache{TTL: 300 * time.Second, Force: !truth(o.Get("cache_control"), false)}
	for _, m := range b.texts(o.Get("request_method")) {
		if m == "GET" || m == "HEAD" {
			r.Methods = append(r.Methods, m)
		} else {
			c.lost(o.Get("request_method").Line(), "proxy-cache: request_method %s: not carried: only GET and HEAD are answered from memory", m)
		}
	}
	if o.Get("request_method").IsNull() {
		r.Methods = []string{"GET", "HEAD"}
	}
	for _, v := range o.Get("response_code").Items() {
		n, _ := v.Number()
		if n < 200 || n > 599 || n == 206 || n == 304 {
			c.lost(v.Line(), "proxy-cache: response_code %v: not carried: such answers are never stored", n)
			continue
		}
		r.Statuses = append(r.Statuses, int(n))
	}
	if o.Get("response_code").IsNull() {
		r.Statuses = []int{200, 301, 404}
	}
	r.ContentTypes = b.texts(o.Get("content_type"))
	if o.Get("content_type").IsNull() {
		r.ContentTypes = []string{"text/plain", "application/json"}
	}
	if n, ok := b.whole(p, o.Get("cache_ttl"), "cache_ttl"); ok {
		r.TTL = min(time.Duration(n)*time.Second, config.MaxTimeout)
	}
	if r.Force {
		c.changed(p.line, "proxy-cache: force: true stores for cache_ttl whatever the origin says, as Kong does, but never what is no-store, private, sets cookies or was asked for with Authorization")
	}
	if word(o.Get("strategy"), "memory") != "memory" {
		c.changed(o.Get("strategy").Line(), "proxy-cache: strategy: answers are kept in memory (cache.max_bytes)")
	}
	for _, key := range []string{"vary_query_params", "storage_ttl", "response_headers"} {
		if v := o.Get(key); !v.IsNull() && (key != "vary_query_params" || len(v.Items()) > 0) {
			c.changed(v.Line(), "proxy-cache: %s: not carried: requests are told apart by their whole query; docs/coming-from.md has the rest", key)
		}
	}
	if truth(o.Get("ignore_uri_case"), false) {
		c.changed(o.Get("ignore_uri_case").Line(), "proxy-cache: ignore_uri_case: paths in other letters are stored apart")
	}
	if len(r.Methods) == 0 || len(r.Statuses) == 0 || len(r.ContentTypes) == 0 {
		return
	}
	b.rule.Stages.Cache = r
}

// fields reads name:value pairs of a list.
func (b *build) fields(p *plugin, v config.Value) (all []config.HeaderField) {
	for _, item := range v.Items() {
		s, _ := item.Text()
		name, value, ok := strings.Cut(s, ":")
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		value = strings.TrimSpace(value)
		switch {
		case !ok || name == "":
			b.c.lost(item.Line(), "%s: %q: want name:value; left out", p.name, s)
		case strings.Contains(value, "$("):
			b.c.lost(item.Line(), "%s: %s: templates are not carried; what a program sends under that name is removed, so that nobody else writes it", p.name, name)
			b.changes(p).Remove = appendOnce(b.changes(p).Remove, name)
		case convert.HasVariable(value):
			b.c.lost(item.Line(), "%s: %s: %q would be replaced by what it names here; left out", p.name, name, value)
		case config.OwnField(name):
			b.c.lost(item.Line(), "%s: %s: is not for rules to change; left out", p.name, name)
		default:
			all = append(all, config.HeaderField{Name: name, Value: value})
		}
	}
	return all
}

// changes gives the side that a transformer works on.
func (b *build) changes(p *plugin) *config.HeaderChanges {
	if b.rule.Stages.Headers == nil {
		b.rule.Stages.Headers = &config.Headers{}
	}
	if p.name == "response-transformer" {
		return &b.rule.Stages.Headers.Response
	}
	return &b.rule.Stages.Headers.Request
}

func appendOnce(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}

// set writes a field, the last one of a name.
func set(h *config.HeaderChanges, f config.HeaderField) {
	h.Set = slices.DeleteFunc(h.Set, func(o config.HeaderField) bool { return o.Name == f.Name })
	h.Set = append(h.Set, f)
}

// headerChanges carries what both transformers do to headers, in their order:
// remove, rename, replace, add, append.
func (b *build) headerChanges(p *plugin, o config.Value) {
	h := b.changes(p)
	for _, item := range o.Get("remove").Get("headers").Items() {
		if name, ok := item.Text(); ok && !config.OwnField(name) {
			// "name:value" removes that value only.
			if bare, _, valued := strings.Cut(name, ":"); valued {
				b.c.changed(item.Line(), "%s: remove.headers %s: every value of %s is removed", p.name, name, bare)
				name = bare
			}
			h.Remove = appendOnce(h.Remove, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	for _, item := range o.Get("rename").Get("headers").Items() {
		s, _ := item.Text()
		old, _, _ := strings.Cut(s, ":")
		old = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(old))
		b.c.lost(item.Line(), "%s: rename.headers %s: not carried: have the program send the new name; the old one is removed", p.name, s)
		if !config.OwnField(old) {
			h.Remove = appendOnce(h.Remove, old)
		}
	}
	for _, f := range b.fields(p, o.Get("replace").Get("headers")) {
		if credential(f.Name) {
			b.c.lost(o.Get("replace").Line(), "%s: replace.headers %s: not carried: Kong wrote it only into requests that had one, and a credential must not go into others; it is removed: use set if every request may have it", p.name, f.Name)
			h.Remove = appendOnce(h.Remove, f.Name)
			continue
		}
		b.c.changed(o.Get("replace").Line(), "%s: replace.headers %s: carried as set, which also writes it where there was none", p.name, f.Name)
		set(h, f)
	}
	for _, f := range b.fields(p, o.Get("add").Get("headers")) {
		if !slices.Contains(h.Remove, f.Name) {
			b.c.changed(o.Get("add").Line(), "%s: add.headers %s: carried as set: Kong left one that was there already as it was", p.name, f.Name)
		}
		set(h, f)
	}
	h.Add = append(h.Add, b.fields(p, o.Get("append").Get("headers"))...)
	// Set takes the place of what was there, so that removing it first is no use.
	h.Remove = slices.DeleteFunc(h.Remove, func(name string) bool {
		return slices.ContainsFunc(h.Set, func(f config.HeaderField) bool { return f.Name == name })
	})
	if hs := b.rule.Stages.Headers; len(hs.Request.Set)+len(hs.Request.Add)+len(hs.Request.Remove)+len(hs.Response.Set)+len(hs.Response.Add)+len(hs.Response.Remove) == 0 {
		b.rule.Stages.Headers = nil
	}
}

// credential reports whether a field is one by which origins know their callers.
func credential(name string) bool {
	lower := strings.ToLower(name)
	for _, s := range []string{"auth", "cookie", "key", "token", "secret", "session"} {
		if strings.Contains(lower, s) {
			return true
		}
	}
	return false
}

func (b *build) requestTransformer(p *plugin) {
	o := b.options(p, "http_method", "remove", "rename", "replace", "add", "append", "dots_in_keys")
	b.headerChanges(p, o)
	if v := o.Get("http_method"); !v.IsNull() {
		method := strings.ToUpper(word(v, ""))
		b.c.changed(v.Line(), "request-transformer: http_method: Kong sent %s whatever it was asked; the program has to send that itself", method)
		b.rule.Match.Methods = []string{method}
	}
	if v := o.Get("replace").Get("uri"); !v.IsNull() {
		uri := word(v, "")
		p := convert.Pattern{Shape: convert.Exact, Text: uri}
		if strings.Contains(uri, "$(") || p.Err() != nil {
			b.refused = true
			b.c.lost(v.Line(), "request-transformer: replace.uri %q: not carried: write a rule with the paths that it leads to; the route is left out", uri)
		} else {
			b.c.changed(v.Line(), "request-transformer: replace.uri: Kong sent %s whatever it was asked; the program has to ask for that itself", uri)
			b.rule.Match.Paths = []convert.Pattern{p}
		}
	}
	for _, action := range []string{"remove", "rename", "replace", "add", "append"} {
		for _, part := range []string{"querystring", "body"} {
			v := o.Get(action).Get(part)
			if len(v.Items()) == 0 {
				continue
			}
			b.c.lost(v.Line(), "request-transformer: %s.%s: not carried: have the program send the request as the origin is to see it; until you name workloads its rules allow nobody", action, part)
			b.gate(p, false, fmt.Sprintf("plugin request-transformer: %s.%s", action, part))
		}
	}
}

func (b *build) responseTransformer(p *plugin) {
	o := b.options(p, "remove", "rename", "replace", "add", "append")
	b.headerChanges(p, o)
	for _, action := range []string{"remove", "rename", "replace", "add", "append"} {
		for _, part := range []string{"json", "json_types"} {
			if v := o.Get(action).Get(part); len(v.Items()) > 0 {
				b.c.lost(v.Line(), "response-transformer: %s.%s: bodies are not rewritten; content_filter can redact what must not be seen (%s values)", action, part, strconv.Itoa(len(v.Items())))
			}
		}
	}
}
