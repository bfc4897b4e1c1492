package nginx

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sallyport/pkg/convert"
)

// A build is a rule in the making.
type build struct {
	c         *conversion
	l         *location
	pass      *directive
	rule      convert.Rule
	gates     []convert.Gate
	rewriting rewriting
	// secure is set for https; group is the upstream that is passed to, nil where
	// the host is one of its own.
	secure bool
	group  *directive
	host   string
	port   int
	// front stands before the whole path of the request.
	front string
	// uri is what proxy_pass has behind the host; hasURI tells "/" from nothing.
	uri    string
	hasURI bool
}

// target reads proxy_pass.
func (b *build) target() bool {
	c, text := b.c, b.pass.arg(0)
	scheme, rest, ok := strings.Cut(b.literal(text), "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		c.lost(b.pass.Place, "%s: proxy_pass %s: want http:// or https:// and a host; write a rule by hand; left out", b.l.show(), text)
		return false
	}
	b.secure = scheme == "https"
	if strings.HasPrefix(rest, "unix:") {
		c.lost(b.pass.Place, "%s: proxy_pass %s: sockets of the host are no origin that is captured; left out", b.l.show(), text)
		return false
	}
	// As in set $backend api.example.com; proxy_pass https://$backend: nginx then
	// resolves the name again and again.
	substituted := b.literal(text) != text
	// The request as it came, written out.
	whole := false
	for _, same := range []string{"$request_uri", "$uri$is_args$args"} {
		if front, ok := strings.CutSuffix(rest, same); ok {
			rest, whole = front, true
		}
	}
	if strings.Contains(rest, "$") {
		c.lost(b.pass.Place, "%s: proxy_pass %s: not carried: where it leads is known only when it runs; write a rule with the hosts by hand; left out", b.l.show(), text)
		return false
	}
	host := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, b.uri, b.hasURI = rest[:i], rest[i:], true
	}
	if whole && b.hasURI {
		if b.l.modifier == regex {
			c.lost(b.pass.Place, "%s: proxy_pass %s: not carried: write a rule with the paths by hand; left out", b.l.show(), text)
			return false
		}
		b.front, b.hasURI, b.uri = b.uri, false, ""
	}
	if substituted && b.hasURI {
		c.lost(b.pass.Place, "%s: proxy_pass %s: not carried: with variables a path is sent as it is written; write a rule by hand; left out", b.l.show(), text)
		return false
	}
	if strings.ContainsAny(b.uri+b.front, "?#") {
		c.lost(b.pass.Place, "%s: proxy_pass %s: not carried: it wrote a query; write a rule by hand; left out", b.l.show(), text)
		return false
	}
	if b.group = c.groups[host]; b.group != nil {
		b.host = host
		return b.hosts()
	}
	port := 80
	if b.secure {
		port = 443
	}
	b.host, b.port, ok = hostPort(host, port)
	if !ok {
		c.lost(b.pass.Place, "%s: proxy_pass %s: %q is no host that could be asked for; left out", b.l.show(), text, host)
		return false
	}
	return b.hosts()
}

// literal writes the values of variables that are set once, to plain text.
func (b *build) literal(s string) string {
	for _, name := range variables(s) {
		var set []*directive
		for sc := b.l.scope; sc != nil; sc = sc.outer {
			for _, d := range sc.children("set") {
				if d.arg(0) == "$"+name {
					set = append(set, d)
				}
			}
			// What a condition sets is known only when it runs.
			for _, d := range sc.children("if") {
				for _, x := range d.block {
					if x.name == "set" && x.arg(0) == "$"+name {
						return s
					}
				}
			}
		}
		if len(set) != 1 || strings.Contains(set[0].arg(1), "$") || set[0].arg(1) == "" {
			continue
		}
		s = strings.ReplaceAll(strings.ReplaceAll(s, "${"+name+"}", set[0].arg(1)), "$"+name, set[0].arg(1))
	}
	return s
}

// hostPort splits a host with a port, or gives the port that it has otherwise.
func hostPort(s string, otherwise int) (string, int, bool) {
	name, port := s, otherwise
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || strings.Contains(s, "]:")) {
		p, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || p == 0 {
			return "", 0, false
		}
		name, port = s[:i], int(p)
	}
	host, ok := convert.Host(name)
	return host, port, ok && !strings.Contains(host, "*")
}

// hosts says what programs ask for.
func (b *build) hosts() bool {
	c, m := b.c, &b.rule.Match
	m.Protocols = []string{"http"}
	standard := 80
	if b.secure {
		m.Protocols, standard = []string{"https"}, 443
	}
	sent := b.sentHost()
	var up *convert.Upstream
	if b.group != nil {
		if up = c.group(b.group, b.secure); up == nil {
			return false
		}
		b.nextUpstream(up)
		if len(up.Targets) == 1 && (sent == "" || sent == up.Targets[0].Host) {
			only := up.Targets[0]
			if sent == "" && b.host != only.Host {
				c.changed(b.pass.Place, "%s: nginx sent the name of the upstream, %s, as Host and verified it; programs ask for %s, and that is verified", b.l.show(), b.host, only.Host)
			}
			b.host, b.port, up = only.Host, int(only.Port), nil
		}
	}
	switch {
	case up == nil && (sent == "" || sent == b.host):
		m.Hosts, m.Ports = []string{b.host}, []int{b.port}
		b.rule.Private = convert.Private(m.Hosts)
	default:
		if up == nil {
			up = single(b.host, b.port)
		}
		return b.balance(up, sent, standard)
	}
	b.verified(sent)
	return true
}

// balance sends the rule to an upstream.
func (b *build) balance(up *convert.Upstream, sent string, standard int) bool {
	c, m := b.c, &b.rule.Match
	m.Ports = []int{standard}
	var hosts []string
	for _, t := range up.Targets {
		if !slices.Contains(hosts, t.Host) {
			hosts = append(hosts, t.Host)
		}
		if !slices.Contains(m.Ports, int(t.Port)) {
			m.Ports = append(m.Ports, int(t.Port))
		}
	}
	if sent != "" {
		m.Hosts = []string{sent}
		up.PreserveHost = true
		up.Name = convert.Name(up.Name + "-for-" + sent)
	} else {
		if alias, ok := convert.Host(b.host); ok && !strings.Contains(alias, "*") {
			m.Hosts = []string{alias}
		}
		for _, h := range hosts {
			if !slices.Contains(m.Hosts, h) {
				m.Hosts = append(m.Hosts, h)
			}
		}
	}
	b.rule.Private = convert.Private(hosts)
	b.rule.Stages.Upstream = up.Name
	if !c.made[up.Name] {
		c.made[up.Name] = true
		c.draft.Upstreams = append(c.draft.Upstreams, *up)
	}
	b.verified(sent)
	return true
}

// sentHost gives the Host that nginx wrote itself, "" where it was the origin's
// own.
func (b *build) sentHost() string {
	c := b.c
	for _, d := range b.l.level("proxy_set_header") {
		if !strings.EqualFold(d.arg(0), "Host") {
			continue
		}
		value := d.arg(1)
		switch {
		case value == "$proxy_host" || value == "$proxy_host:$proxy_port" || value == "":
			return ""
		case !strings.Contains(value, "$"):
			if host, _, ok := hostPort(value, 80); ok {
				return host
			}
		}
		c.changed(d.Place, "proxy_set_header Host %s: nginx sent what its callers asked for; programs ask for the origin by its own name, which is what it gets", value)
		return ""
	}
	return ""
}

// takeOff is the one kind of rewrite that says what it sends: a prefix that
// another takes the place of.
var takeOff = regexp.MustCompile(`^\^([A-Za-z0-9/_.~-]*)\(\.\*\)\$?$`)

// rewrite finds how paths are changed.
func (b *build) rewrite() bool {
	c, l := b.c, b.l
	b.rewriting = rewriting{identity: true}
	if b.front != "" {
		b.rewriting = rewriting{from: "", to: b.front}
	}
	if b.hasURI {
		if l.modifier == regex {
			c.lost(b.pass.Place, "%s: proxy_pass with a path: nginx does not take it behind a regular expression; left out", l.show())
			return false
		}
		b.rewriting = rewriting{from: l.uri, to: b.uri}
	}
	all := l.children("rewrite")
	if len(all) == 0 {
		return true
	}
	d := all[0]
	m := takeOff.FindStringSubmatch(d.arg(0))
	to, ok := strings.CutSuffix(d.arg(1), "$1")
	if len(all) == 1 && m != nil && ok && strings.HasPrefix(to, "/") && !strings.ContainsAny(to, "$?") && d.arg(2) == "break" && !b.hasURI && b.front == "" &&
		strings.HasPrefix(l.uri, m[1]) && !strings.ContainsAny(m[1], ".") && (l.modifier == prefix || l.modifier == stop) {
		b.rewriting = rewriting{from: m[1], to: convert.EncodePath(to)}
		return true
	}
	c.lost(d.Place, "%s: rewrite %s: not carried: it changed what was sent; write a rule with the paths that reach the origin by hand; left out", l.show(), strings.Join(d.args, " "))
	return false
}

func isAddress(host string) bool { return net.ParseIP(host) != nil }
