// Package kong converts declarative files of Kong.
package kong

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// A reader reads one file and collects its mistakes.
type reader struct {
	name     string
	mistakes []error
	f        *file
	// shared are the _plugin_configs.
	shared config.Value
}

func (r *reader) wrong(line int, format string, args ...any) {
	r.mistakes = append(r.mistakes, &convert.Mistake{Place: convert.Place{File: r.name, Line: line}, Text: fmt.Sprintf(format, args...)})
}

func (r *reader) text(v config.Value, what string) string {
	s, ok := v.Text()
	if !ok && !v.IsNull() {
		r.wrong(v.Line(), "%s: want text, found %s", what, v.Found())
	}
	return s
}

func (r *reader) number(v config.Value, what string, otherwise float64) float64 {
	if v.IsNull() {
		return otherwise
	}
	n, ok := v.Number()
	if !ok || n < 0 || n > math.MaxInt32 {
		r.wrong(v.Line(), "%s: want a number, found %s", what, v.Found())
		return otherwise
	}
	return n
}

func (r *reader) integer(v config.Value, what string, otherwise int) int {
	return int(r.number(v, what, float64(otherwise)))
}

func (r *reader) boolean(v config.Value, what string, otherwise bool) bool {
	if v.IsNull() {
		return otherwise
	}
	b, ok := v.Bool()
	if !ok {
		r.wrong(v.Line(), "%s: want true or false, found %s", what, v.Found())
	}
	return b
}

func (r *reader) texts(v config.Value, what string) (all []string) {
	if v.IsMapping() {
		r.wrong(v.Line(), "%s: want a list, found %s", what, v.Found())
	}
	for _, item := range v.Items() {
		all = append(all, r.text(item, what))
	}
	return all
}

func (r *reader) integers(v config.Value, what string) (all []int) {
	for _, item := range v.Items() {
		all = append(all, r.integer(item, what, 0))
	}
	return all
}

// ref reads a reference: a name, or a mapping with name or id.
func (r *reader) ref(v config.Value, what string) string {
	if !v.IsMapping() {
		return r.text(v, what)
	}
	if s := r.text(v.Get("id"), what); s != "" {
		return s
	}
	if s := r.text(v.Get("name"), what); s != "" {
		return s
	}
	return r.text(v.Get("username"), what)
}

// list gives the entities below a key.
func (r *reader) list(v config.Value, key string) []config.Value {
	list := v.Get(key)
	var all []config.Value
	for _, item := range list.Items() {
		if !item.IsMapping() {
			r.wrong(item.Line(), "%s: want a mapping, found %s", key, item.Found())
			continue
		}
		all = append(all, item)
	}
	if list.IsMapping() {
		r.wrong(list.Line(), "%s: want a list, found %s", key, list.Found())
	}
	return all
}

// silent are keys that say nothing about traffic.
var silent = []string{"name", "id", "tags", "created_at", "updated_at", "ws_id", "_comment", "_ignore"}

// rest gives the keys that are not among those known.
func rest(v config.Value, known ...string) (all []unread) {
	for _, e := range v.Entries() {
		if !slices.Contains(known, e.Key) && !slices.Contains(silent, e.Key) && !e.Value.IsNull() {
			all = append(all, unread{e.Line, e.Key})
		}
	}
	return all
}

func (r *reader) entity(v config.Value) entity {
	return entity{r.text(v.Get("name"), "name"), r.text(v.Get("id"), "id"), v.Line()}
}

// read reads a whole file.
func read(name string, data []byte) (*file, error) {
	root, err := config.ReadYAML(config.File{Name: name, Data: data})
	if err != nil {
		return nil, err
	}
	r := &reader{name: name, f: &file{name: name}}
	version := r.text(root.Get("_format_version"), "_format_version")
	switch version {
	case "":
		return nil, &convert.Mistake{Place: convert.Place{File: name, Line: 1}, Text: `no "_format_version": this is no declarative file of Kong; give the one that decK or declarative_config names`}
	case "1.1", "2.1":
	case "3.0":
		r.f.modern = true
	default:
		r.wrong(root.Get("_format_version").Line(), "_format_version %q: want 1.1, 2.1 or 3.0", version)
	}
	r.shared = root.Get("_plugin_configs")
	for _, e := range root.Entries() {
		switch e.Key {
		case "_plugin_configs", "services", "routes", "upstreams", "targets", "plugins", "_format_version", "_transform", "_info", "_comment", "_ignore", "_workspace", "_konnect":
		default:
			if !e.Value.IsNull() && (len(e.Value.Items()) > 0 || e.Value.IsMapping()) {
				r.f.others = append(r.f.others, unread{e.Line, e.Key})
			}
		}
	}
	for _, v := range r.list(root, "services") {
		r.service(v)
	}
	for _, v := range r.list(root, "routes") {
		r.route(v, "")
	}
	for _, v := range r.list(root, "upstreams") {
		r.upstream(v)
	}
	for _, v := range r.list(root, "targets") {
		r.looseTarget(v)
	}
	for _, v := range r.list(root, "plugins") {
		r.plugin(v, "", "")
	}
	if len(r.mistakes) > 0 {
		return nil, mistakes(r.mistakes)
	}
	return r.f, nil
}

func (r *reader) service(v config.Value) {
	s := &service{
		entity: r.entity(v), enabled: r.boolean(v.Get("enabled"), "enabled", true),
		protocol: r.text(v.Get("protocol"), "protocol"), host: r.text(v.Get("host"), "host"), path: r.text(v.Get("path"), "path"),
		port:    r.integer(v.Get("port"), "port", 0),
		retries: r.integer(v.Get("retries"), "retries", -1),
		connect: r.integer(v.Get("connect_timeout"), "connect_timeout", -1),
		read:    r.integer(v.Get("read_timeout"), "read_timeout", -1),
		write:   r.integer(v.Get("write_timeout"), "write_timeout", -1),
		verify:  -1,
		unread: rest(v, "url", "protocol", "host", "port", "path", "retries", "connect_timeout", "read_timeout", "write_timeout",
			"enabled", "tls_verify", "tls_verify_depth", "client_certificate", "ca_certificates", "routes", "plugins"),
		certificate: v.Get("client_certificate").Line(), caCertificates: v.Get("ca_certificates").Line(),
	}
	if b := v.Get("tls_verify"); !b.IsNull() {
		s.verify = 0
		if r.boolean(b, "tls_verify", false) {
			s.verify = 1
		}
	}
	if text := r.text(v.Get("url"), "url"); text != "" {
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" {
			r.wrong(v.Get("url").Line(), "url: %q is no URL with a host", text)
			return
		}
		s.protocol, s.host, s.path = u.Scheme, u.Hostname(), u.EscapedPath()
		if u.Port() != "" {
			s.port, _ = strconv.Atoi(u.Port())
		}
	}
	if s.protocol == "" {
		s.protocol = "http"
	}
	if s.port == 0 {
		s.port = 80
		if s.protocol == "https" || s.protocol == "grpcs" || s.protocol == "wss" {
			// Of a url the port follows the scheme; a bare protocol leaves 80.
			if !v.Get("url").IsNull() {
				s.port = 443
			}
		}
	}
	if s.host == "" {
		r.wrong(s.line, "service %q has neither url nor host", s.label())
		return
	}
	r.f.services = append(r.f.services, s)
	ref := s.ref()
	for _, n := range r.list(v, "routes") {
		r.route(n, ref)
	}
	for _, n := range r.list(v, "plugins") {
		r.plugin(n, ref, "")
	}
}

func (r *reader) route(v config.Value, of string) {
	x := &route{
		entity: r.entity(v), service: of,
		protocols: r.texts(v.Get("protocols"), "protocols"), methods: r.texts(v.Get("methods"), "methods"),
		hosts: r.texts(v.Get("hosts"), "hosts"), paths: r.texts(v.Get("paths"), "paths"), snis: r.texts(v.Get("snis"), "snis"),
		strip: r.boolean(v.Get("strip_path"), "strip_path", true), preserveHost: r.boolean(v.Get("preserve_host"), "preserve_host", false),
		handling: r.text(v.Get("path_handling"), "path_handling"), priority: r.integer(v.Get("regex_priority"), "regex_priority", 0),
		expression: v.Get("expression").Line(),
		stream:     max(v.Get("sources").Line(), v.Get("destinations").Line()),
		unread: rest(v, "service", "protocols", "methods", "hosts", "paths", "snis", "headers", "strip_path", "preserve_host", "path_handling",
			"regex_priority", "expression", "priority", "sources", "destinations", "plugins", "https_redirect_status_code", "request_buffering", "response_buffering"),
	}
	if of == "" {
		x.service = r.ref(v.Get("service"), "service")
	}
	if len(x.protocols) == 0 {
		x.protocols = []string{"http", "https"}
	}
	for i, m := range x.methods {
		x.methods[i] = strings.ToUpper(m)
	}
	for _, e := range v.Get("headers").Entries() {
		x.headers = append(x.headers, convert.Header{Name: e.Key, Values: r.texts(e.Value, "headers")})
	}
	r.f.routes = append(r.f.routes, x)
	ref := x.ref()
	for _, n := range r.list(v, "plugins") {
		r.plugin(n, "", ref)
	}
}

func (r *reader) plugin(v config.Value, service, of string) {
	p := &plugin{
		line: v.Line(), name: r.text(v.Get("name"), "name"), enabled: r.boolean(v.Get("enabled"), "enabled", true),
		config: v.Get("config"), service: service, route: of,
	}
	if p.name == "" {
		r.wrong(p.line, "a plugin without a name")
	}
	if ref := v.Get("_config"); !ref.IsNull() {
		if !p.config.IsNull() {
			p.mixed = true
		} else if p.config = r.shared.Get(r.text(ref, "_config")); p.config.IsNull() {
			r.wrong(ref.Line(), "plugin %s: _config: there is no such entry of _plugin_configs", p.name)
		}
	}
	if s := r.ref(v.Get("service"), "service"); s != "" {
		p.service = s
	}
	if s := r.ref(v.Get("route"), "route"); s != "" {
		p.route = s
	}
	if p.consumer = r.ref(v.Get("consumer"), "consumer"); p.consumer == "" {
		p.consumer = r.ref(v.Get("consumer_group"), "consumer_group")
	}
	r.f.plugins = append(r.f.plugins, p)
}

// mistakes are shown one a line.
type mistakes []error

func (m mistakes) Error() string {
	lines := make([]string, len(m))
	for i, err := range m {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func (m mistakes) Unwrap() []error { return m }
