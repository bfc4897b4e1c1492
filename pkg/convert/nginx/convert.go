// Package nginx converts nginx.conf.
package nginx

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/pkg/convert"
)

// Convert turns an nginx.conf into a draft. The error is of what cannot be
// parsed, with its place.
func Convert(name string, data []byte, files Files) (*convert.Draft, *convert.Notes, error) {
	all, err := parse(name, data, files)
	if err != nil {
		return nil, nil, err
	}
	c := &conversion{
		file: name, notes: &convert.Notes{}, draft: &convert.Draft{}, surveyed: make(map[*directive][]convert.Gate), made: make(map[string]bool),
	}
	c.main(all)
	return c.draft, c.notes, nil
}

type conversion struct {
	file  string
	notes *convert.Notes
	draft *convert.Draft
	gates convert.Gates
	units []convert.Unit
	// zones are the limit_req_zone directives by name.
	zones map[string]*zone
	// groups are the upstream blocks by name; made are those in the draft.
	groups map[string]*directive
	made   map[string]bool
	// surveyed are the blocks whose directives have been looked through.
	surveyed map[*directive][]convert.Gate
	// unverified is set when it has been told that nginx verified nothing.
	unverified bool
	rank       int
}

func (c *conversion) lost(at convert.Place, format string, args ...any) {
	c.notes.Add(at, convert.Lost, format, args...)
}

func (c *conversion) changed(at convert.Place, format string, args ...any) {
	c.notes.Add(at, convert.Changed, format, args...)
}

// nginxTimeout is the default of proxy_connect_timeout and proxy_read_timeout.
const nginxTimeout = 60 * time.Second

func (c *conversion) main(all []*directive) {
	c.draft.Head = []string{
		"From " + c.file + " by sallyport convert nginx. Rules say what nginx sent upstream: a program asks the",
		"origin itself, by its own name; the address and path that it had on nginx are comments.",
	}
	root := &directive{block: all, hasBlock: true}
	c.survey(root)
	main := &scope{root, nil}
	for _, d := range main.children("stream", "mail") {
		c.lost(d.Place, "%s: not carried: write rules with hosts or cidrs, ports and protocols: [tcp] by hand", d.name)
	}
	https := main.children("http")
	servers := 0
	for _, d := range https {
		h := &scope{d, nil}
		// Whatever stands before http concerns nginx itself.
		c.collect(h)
		for _, s := range h.children("server") {
			servers++
			c.server(&scope{s, h})
		}
	}
	if servers == 0 {
		// A file of conf.d holds servers and upstreams without the http around them.
		if loose := main.children("server"); len(loose) > 0 {
			c.collect(main)
			for _, s := range loose {
				c.server(&scope{s, main})
			}
		} else {
			c.lost(convert.Place{File: c.file, Line: 1}, "no server block: there is nothing to convert; give the main file, or the output of nginx -T")
		}
	}
	c.draft.Rules = convert.Arrange(c.units, c.notes)
	c.draft.Workloads = c.gates.Workloads
	if len(c.units) > 0 {
		connect, head, idle := nginxTimeout, nginxTimeout, nginxTimeout
		c.draft.Timeouts = &convert.Timeouts{Connect: &connect, ResponseHeader: &head, StreamIdle: &idle}
	}
	c.draft.Sound(c.file, c.notes)
}

// collect finds zones and upstreams.
func (c *conversion) collect(h *scope) {
	c.zones, c.groups = make(map[string]*zone), make(map[string]*directive)
	for _, d := range h.children("limit_req_zone") {
		if z := c.zone(d); z != nil {
			c.zones[z.name] = z
		}
	}
	for _, d := range h.children("upstream") {
		c.groups[d.arg(0)] = d
	}
}

// server converts the locations of a server that pass requests on.
func (c *conversion) server(s *scope) {
	all := locations(s)
	proxied := slices.ContainsFunc(all, func(l *location) bool { return len(l.children("proxy_pass")) > 0 })
	if !proxied {
		c.changed(s.Place, "server %s: passes nothing on by proxy_pass; left out", c.serverName(s))
		return
	}
	if d := s.last("return"); d != nil && slices.Contains(s.block, d) {
		c.changed(d.Place, "return: the server answered everything itself; left out")
		return
	}
	if d := s.children("rewrite"); len(d) > 0 {
		c.lost(d[0].Place, "rewrite: not carried: it changed what the locations of the server sent; write their rules by hand; left out")
		return
	}
	for _, l := range all {
		c.location(l, all)
	}
	c.rank += len(all)
}

// serverName is what callers called the server.
func (c *conversion) serverName(s *scope) string {
	var parts []string
	if d := s.last("server_name"); d != nil {
		parts = append(parts, strings.Join(d.args, " "))
	}
	for _, d := range s.children("listen") {
		parts = append(parts, d.arg(0))
	}
	if len(parts) == 0 {
		return "(default)"
	}
	return strings.Join(parts, ", ")
}

// location converts one location.
func (c *conversion) location(l *location, all []*location) {
	passes := l.children("proxy_pass")
	if len(passes) == 0 {
		for _, name := range []string{"grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"} {
			if d := l.last(name); d != nil && slices.Contains(l.block, d) {
				c.lost(d.Place, "%s: %s: not carried: only proxy_pass is; write a rule for that origin by hand if programs ask it themselves", l.show(), name)
				return
			}
		}
		c.changed(l.Place, "%s: sends nothing upstream by proxy_pass; left out", l.show())
		return
	}
	pass := passes[len(passes)-1]
	if d := l.children("return"); len(d) > 0 {
		c.changed(d[0].Place, "%s: return answers before proxy_pass is looked at; left out", l.show())
		return
	}
	if d := l.children("internal"); len(d) > 0 {
		c.changed(d[0].Place, "%s: internal: no caller could ask for it; left out", l.show())
		return
	}
	if l.modifier == named {
		c.lost(l.Place, "%s: not carried: write a rule for what is passed to it by hand", l.show())
		return
	}
	b := &build{c: c, l: l, pass: pass}
	if !b.target() || !b.rewrite() || !b.access() {
		return
	}
	paths, when, why := l.sent(b.rewriting)
	if l.nested && why == "" {
		why = "a regular expression inside another location: write a rule with paths by hand"
	}
	if why != "" {
		c.lost(l.Place, "%s: %s; left out", l.show(), why)
		return
	}
	for _, p := range paths {
		if err := p.Err(); err != nil {
			c.lost(l.Place, "%s: path %q %v; left out", l.show(), p, err)
			return
		}
	}
	b.rule.Match.Paths, b.rule.Match.When = paths, when
	b.stages()
	for s := l.scope; s != nil; s = s.outer {
		b.gates = append(b.gates, c.survey(s.directive)...)
	}
	b.finish(all)
}

// finish adds the unit with what others take of it.
func (b *build) finish(all []*location) {
	c, l := b.c, b.l
	b.rule.Name = b.name()
	b.rule.Comment = append([]string{
		fmt.Sprintf("%s (%s) of server %s, proxy_pass %s", l.show(), l.Place, c.serverName(b.server()), b.pass.arg(0)),
	}, b.rule.Comment...)
	if name := c.gates.Close(&b.rule, b.gates); name != "" {
		b.rule.Comment = append(b.rule.Comment, "Nobody passes until you have said who is "+name+", above.")
	}
	u := convert.Unit{Rule: b.rule, Place: l.Place}
	switch l.modifier {
	case exact, stop:
		u.Rank = 0
	case regex:
		u.Rank = 1 + c.rank + slices.Index(all, l)
	default:
		u.Rank = 1 << 30
	}
	for _, o := range all {
		if bare := o.redirects(all); bare != "" && l.modifier == regex {
			u.Holes = append(u.Holes, convert.Hole{Paths: []convert.Pattern{{Shape: convert.Exact, Text: convert.EncodePath(bare)}}, Methods: b.rule.Match.Methods,
				Comment: fmt.Sprintf("nginx answered this by a redirect to %s (%s).", o.show(), o.Place)})
		}
		if !o.before(l, all) {
			continue
		}
		paths, when := l.taken(o, all, b.rewriting)
		for i, p := range paths {
			if p.Err() != nil {
				paths[i] = convert.SubtreeOf("")
			}
		}
		if len(paths) > 0 {
			u.Holes = append(u.Holes, convert.Hole{Paths: paths, Methods: b.rule.Match.Methods, When: when,
				Comment: fmt.Sprintf("nginx gave these to %s (%s), not to %s.", o.show(), o.Place, l.show())})
		}
	}
	c.units = append(c.units, u)
}

func (b *build) server() *scope {
	s := b.l.scope
	for s.outer != nil && s.name != "server" {
		s = s.outer
	}
	return s
}

// name makes a name from server and location.
func (b *build) name() string {
	uri := strings.Trim(b.l.uri, "/")
	if b.l.modifier == regex {
		uri = fmt.Sprintf("regex-line-%d", b.l.Line)
	}
	if uri == "" {
		uri = "root"
	}
	if name := b.server().value("server_name", ""); name != "" && name != "_" && name != "localhost" {
		uri = name + "-" + uri
	}
	return convert.Name(uri)
}
