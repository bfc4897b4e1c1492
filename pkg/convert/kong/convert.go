package kong

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// Convert turns a declarative file of Kong into a draft. The error is of what
// cannot be read, each mistake with its place.
func Convert(name string, data []byte) (*convert.Draft, *convert.Notes, error) {
	f, err := read(name, data)
	if err != nil {
		return nil, nil, err
	}
	c := &conversion{file: f, notes: &convert.Notes{}, draft: &convert.Draft{}, made: make(map[string]bool)}
	c.run()
	return c.draft, c.notes, nil
}

type conversion struct {
	*file
	notes *convert.Notes
	draft *convert.Draft
	gates convert.Gates
	// made are the names of upstreams that the draft has.
	made map[string]bool
}

func (c *conversion) at(line int) convert.Place { return convert.Place{File: c.file.name, Line: line} }

func (c *conversion) lost(line int, format string, args ...any) {
	c.notes.Add(c.at(line), convert.Lost, format, args...)
}

func (c *conversion) changed(line int, format string, args ...any) {
	c.notes.Add(c.at(line), convert.Changed, format, args...)
}

// kongTimeout is the default of connect_timeout, read_timeout and write_timeout.
const kongTimeout = 60 * time.Second

func (c *conversion) run() {
	c.draft.Head = []string{
		"From " + c.file.name + " by sallyport convert kong. Rules say what Kong sent upstream: a program asks the",
		"origin itself, by its own name; the address and path that it had on Kong are comments.",
	}
	connect, head, idle := kongTimeout, kongTimeout, kongTimeout
	c.draft.Timeouts = &convert.Timeouts{Connect: &connect, ResponseHeader: &head, StreamIdle: &idle}
	for _, o := range c.others {
		c.lost(o.line, "%s: not carried: there is nothing of that kind here; programs are known by their cgroup, certificates belong to the origin", o.what)
	}
	c.unusedPlugins()
	ways := c.ways()
	var units []convert.Unit
	for i, w := range ways {
		if u, ok := c.unit(ways, i); ok {
			u.Place = c.at(w.route.line)
			units = append(units, u)
		}
	}
	c.unusedServices()
	c.draft.Rules = convert.Arrange(units, c.notes)
	c.draft.Workloads = c.gates.Workloads
	if len(units) == 0 {
		c.draft.Timeouts = nil
	}
	c.draft.Sound(c.file.name, c.notes)
}

// unusedServices names what no request could reach.
func (c *conversion) unusedServices() {
	for _, s := range c.services {
		if !slices.ContainsFunc(c.routes, func(r *route) bool { return s.is(r.service) }) {
			c.changed(s.line, "service %s: no route leads to it, so nothing was sent there; add a rule if it is wanted", s.label())
		}
	}
	for _, u := range c.upstreams {
		if !c.made[convert.Name(u.name)] && !slices.ContainsFunc(c.services, func(s *service) bool { return s.host == u.name }) {
			c.changed(u.line, "upstream %s: no service uses it; left out", u.name)
		}
	}
}

// service finds what a route leads to.
func (c *conversion) service(ref string) *service {
	for _, s := range c.services {
		if s.is(ref) {
			return s
		}
	}
	return nil
}

func (c *conversion) upstream(name string) *upstream {
	for _, u := range c.upstreams {
		if u.name == name {
			return u
		}
	}
	return nil
}

// unit converts one way; false where nothing may pass by it.
func (c *conversion) unit(ways []*way, i int) (convert.Unit, bool) {
	w := ways[i]
	r := w.route
	if r.service == "" {
		c.changed(r.line, "route %s: has no service, so nothing was sent upstream; left out", r.label())
		return convert.Unit{}, false
	}
	s := c.service(r.service)
	switch {
	case s == nil:
		c.lost(r.line, "route %s: service %q is nowhere in the file; left out", r.label(), r.service)
		return convert.Unit{}, false
	case !s.enabled:
		c.changed(s.line, "service %s: is not enabled, so nothing was sent there; left out", s.label())
		return convert.Unit{}, false
	case r.expression > 0:
		c.lost(r.expression, "route %s: expression: not carried: write a rule with methods, paths and headers by hand; left out", r.label())
		return convert.Unit{}, false
	case r.stream > 0:
		c.lost(r.stream, "route %s: sources and destinations are of streams: write a rule with cidrs, ports and protocols: [tcp] by hand; left out", r.label())
		return convert.Unit{}, false
	}
	b := &build{c: c, way: w, service: s}
	b.rule.Name = convert.Name(r.label())
	if !b.origin() || !b.request() {
		return convert.Unit{}, false
	}
	b.timeouts()
	b.plugins()
	c.keys(s, r)
	if b.refused {
		return convert.Unit{}, false
	}
	b.comment()
	if name := c.gates.Close(&b.rule, b.gates); name != "" {
		b.rule.Comment = append(b.rule.Comment, "Nobody passes until you have said who is "+name+", above.")
	}
	u := convert.Unit{Rule: b.rule, Rank: w.rank(ways)}
	for _, higher := range ways[:i] {
		hole, whole := w.shadow(s, higher)
		if whole {
			c.changed(r.line, "route %s: route %s (%s) comes first and takes every request of %s; left out", r.label(), higher.route.label(), c.at(higher.route.line), w.show())
			return convert.Unit{}, false
		}
		if hole != nil {
			hole.Comment = fmt.Sprintf("Kong gave these to route %s (line %d), which comes before %s.", higher.route.label(), higher.route.line, r.label())
			u.Holes = append(u.Holes, *hole)
		}
	}
	return u, true
}

// keys names what the converter knows nothing of.
func (c *conversion) keys(s *service, r *route) {
	for _, k := range s.unread {
		c.lost(k.line, "service %s: %s: not known; look whether anything is needed in its place", s.label(), k.what)
	}
	for _, k := range r.unread {
		c.lost(k.line, "route %s: %s: not known; look whether anything is needed in its place", r.label(), k.what)
	}
	if s.certificate > 0 {
		c.lost(s.certificate, "service %s: client_certificate: write it into files and name them in upstream_tls: { cert: FILE, key: FILE } of its rules", s.label())
	}
	if s.caCertificates > 0 {
		c.lost(s.caCertificates, "service %s: ca_certificates: write them into a file and name it in tls.upstream_ca_files", s.label())
	}
	if s.verify == 0 && (s.protocol == "https" || s.protocol == "grpcs") {
		c.changed(s.line, "service %s: tls_verify: false: here certificates are always verified; name the authority's file in tls.upstream_ca_files if it is your own", s.label())
	}
}

// A build is a rule in the making.
type build struct {
	c       *conversion
	way     *way
	service *service
	rule    convert.Rule
	gates   []convert.Gate
	// refused is set where Kong answered each request itself.
	refused bool
}

// request finds what the rule asks of a request: methods, paths, headers.
func (b *build) request() bool {
	c, r, s := b.c, b.way.route, b.service
	m := &b.rule.Match
	m.Methods = r.methods
	for _, h := range r.headers {
		if strings.EqualFold(h.Name, "host") || len(h.Values) == 0 {
			continue
		}
		values := make([]string, 0, len(h.Values))
		for _, v := range h.Values {
			if strings.HasPrefix(v, "~*") {
				c.lost(r.line, "route %s: header %s: regular expression %q: not carried: a glob may say it; left out", r.label(), h.Name, v)
				return false
			}
			values = append(values, glob.Replace(v))
		}
		m.Headers = append(m.Headers, convert.Header{Name: h.Name, Values: values})
	}
	if len(r.headers) > 0 {
		c.changed(r.line, "route %s: headers: their values are compared with upper and lower case told apart", r.label())
	}
	paths, when, why := b.way.upstreamPaths(s)
	if why != "" {
		c.lost(r.line, "route %s: path %q: %s; left out", r.label(), b.way.path, why)
		return false
	}
	for _, p := range paths {
		if err := p.Err(); err != nil {
			c.lost(r.line, "route %s: path %q %v; left out", r.label(), p, err)
			return false
		}
	}
	m.Paths, m.When = paths, when
	if len(r.paths) == 0 && len(r.hosts) == 0 && len(r.methods) == 0 && len(r.headers) == 0 && len(r.snis) == 0 {
		c.lost(r.line, "route %s: matches nothing, as Kong reads it (no paths, hosts, methods, headers or snis); left out", r.label())
		return false
	}
	return true
}

// glob takes the meaning from the special characters of globs.
var glob = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// timeouts carries those of the service.
func (b *build) timeouts() {
	c, s := b.c, b.service
	of := func(ms int, key string) time.Duration {
		d := time.Duration(ms) * time.Millisecond
		switch {
		case ms < 0:
			return kongTimeout
		case d < time.Millisecond || d > config.MaxTimeout:
			c.changed(s.line, "service %s: %s: carried as %v, the most there is", s.label(), key, config.MaxTimeout)
			return config.MaxTimeout
		}
		return d
	}
	connect, head := of(s.connect, "connect_timeout"), of(s.read, "read_timeout")
	if connect != kongTimeout || head != kongTimeout {
		idle := head
		b.rule.Timeouts = &convert.Timeouts{Connect: &connect, ResponseHeader: &head, StreamIdle: &idle}
	}
	if s.write >= 0 && s.write != s.read && time.Duration(s.write)*time.Millisecond != kongTimeout {
		c.changed(s.line, "service %s: write_timeout: there is no such timeout; stream_idle ends what moves in neither direction", s.label())
	}
	b.retries(b.rule.Stages.Upstream != "")
}

// retries carries the service's retries, those that are not written only where
// there are targets to choose from.
func (b *build) retries(balanced bool) {
	s := b.service
	n := s.retries
	if n < 0 {
		if !balanced {
			return
		}
		n = 5
	}
	if n == 0 {
		return
	}
	if n+1 > config.MaxAttempts {
		b.c.changed(s.line, "service %s: retries: carried as %d, the most there is", s.label(), config.MaxAttempts-1)
		n = config.MaxAttempts - 1
	}
	b.rule.Stages.Retry = &config.Retry{Attempts: n + 1, On: []config.RetryOn{config.RetryConnect}}
}

// comment tells where the rule comes from.
func (b *build) comment() {
	r, s := b.way.route, b.service
	b.rule.Comment = append([]string{
		fmt.Sprintf("Route %s (line %d) to service %s (line %d). On Kong: %s", r.label(), r.line, s.label(), s.line, b.way.show()),
	}, b.rule.Comment...)
}
