package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"sallyport/pkg/policy/pattern"
)

// An UpstreamProxy is the proxy through which a network lets connections out.
// The zero value means none. What one block says is never mixed with another
// block: a user name meant for one proxy is not shown to another.
type UpstreamProxy struct {
	// Scheme is how the proxy itself is spoken to; "" means no proxy.
	Scheme ProxyScheme
	// Host is the proxy's canonical name or address.
	Host string
	Port uint16
	// Username is sent with the password of PasswordFile (Basic, RFC 7617); ""
	// means that the proxy asks for none.
	Username string
	// PasswordFile is read by the keeper at start and at each reload; "" with a
	// Username is an empty password.
	PasswordFile string
	// NoProxy lists what does not go by the proxy.
	NoProxy []NoProxy
}

// A ProxyScheme is how an upstream proxy is spoken to.
type ProxyScheme string

// The schemes of upstream proxies.
const (
	ProxyHTTP  ProxyScheme = "http"
	ProxyHTTPS ProxyScheme = "https"
)

// set reports whether there is a proxy.
func (u *UpstreamProxy) set() bool { return u != nil && u.Scheme != "" }

// URL writes the proxy's address, "" for none. It has no credentials in it.
func (u *UpstreamProxy) URL() string {
	if !u.set() {
		return ""
	}
	return string(u.Scheme) + "://" + net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port)))
}

// A NoProxy is one entry of no_proxy: names or addresses that are reached
// without the proxy. With neither Name nor Prefix it is "*", everything.
type NoProxy struct {
	// Name is a canonical name; what lies below it is meant in every case.
	Name string
	// Below says that Name itself is not meant.
	Below bool
	// Prefix holds addresses that are dialled as such.
	Prefix netip.Prefix
	// Port is the only port that is meant; 0: all.
	Port uint16
}

// String writes the entry as the configuration has it.
func (n NoProxy) String() string {
	text := n.Name
	switch {
	case n.Prefix.IsValid():
		text = n.Prefix.String()
		if n.Prefix.IsSingleIP() {
			text = n.Prefix.Addr().String()
		}
		if n.Port != 0 && n.Prefix.Addr().Is6() {
			text = "[" + text + "]"
		}
	case n.Name == "":
		text = "*"
	case n.Below:
		text = "." + text
	}
	if n.Port != 0 {
		text += ":" + strconv.Itoa(int(n.Port))
	}
	return text
}

// parseNoProxy reads one entry: "*", a name (it and what lies below it),
// ".name" or "*.name" (only what lies below it), an address, or a prefix; each
// may end in ":port", IPv6 in brackets then. The error continues the entry.
func parseNoProxy(s string) (NoProxy, error) {
	var n NoProxy
	rest := s
	switch i := strings.LastIndexByte(s, ':'); {
	case strings.ContainsAny(s, ", \t"):
		return n, errors.New("is several: write a list, one entry each")
	case strings.Contains(s, "://"):
		return n, errors.New("must be a name or an address, without scheme or path")
	case i > strings.LastIndexByte(s, ']') && (s[0] == '[' || strings.IndexByte(s, ':') == i):
		port, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || port == 0 || s[i+1] == '+' {
			return n, errors.New("has a bad port")
		}
		n.Port, rest = uint16(port), s[:i]
	}
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		if rest, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(rest, ":") {
			return n, errors.New("has brackets, which belong around an IPv6 address")
		}
	}
	if strings.ContainsAny(rest, "/:") {
		return noProxyPrefix(n, rest)
	}
	if rest == "*" {
		return n, nil
	}
	name := rest
	if below, ok := strings.CutPrefix(strings.TrimPrefix(rest, "*"), "."); ok {
		name, n.Below = below, true
	}
	if strings.Contains(name, "*") {
		return n, errors.New(`may have "*" only alone or as its whole first label, as in "*.example.com"`)
	}
	canonical, err := pattern.CanonicalHost(name)
	if err != nil {
		return n, err
	}
	if addr, err := netip.ParseAddr(canonical); err == nil {
		if n.Below {
			return n, errors.New("is an address, which has no subdomains")
		}
		n.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return n, nil
	}
	n.Name = canonical
	return n, nil
}

func noProxyPrefix(n NoProxy, s string) (NoProxy, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		n.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return n, nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return n, errors.New("is neither a name nor an address nor a prefix such as 192.0.2.0/24")
	case p.Addr().Is4In6():
		return n, errors.New("is a mapped prefix: write IPv4 prefixes as such, not below ::ffff")
	case p != p.Masked():
		return n, fmt.Errorf("has bits after /%d (did you mean %q?)", p.Bits(), p.Masked())
	}
	n.Prefix = p
	return n, nil
}

// upstreamProxy reads a block. In a rule and in `defaults` the url is needed:
// there "" says that nothing goes by a proxy.
func (d *decoder) upstreamProxy(n *node, path string, needURL bool) *UpstreamProxy {
	u := &UpstreamProxy{}
	optionalText := func(key string, into *string) func(n *node) {
		return func(n *node) {
			if s, ok := d.text(n, path+"."+key); ok {
				*into = s
			}
		}
	}
	d.object(n, path,
		field{"url", func(n *node) { d.proxyURL(n, path+".url", u) }},
		field{"username", optionalText("username", &u.Username)},
		field{"password_file", func(n *node) {
			if n.kind != scalar || n.tag != "!!str" || n.value != "" {
				d.file(n, path+".password_file", &u.PasswordFile)
			}
		}},
		field{"no_proxy", func(n *node) {
			d.items(n, path+".no_proxy", func(n *node) {
				s, ok := d.text(n, path+".no_proxy")
				if !ok {
					return
				}
				entry, err := parseNoProxy(s)
				if err != nil {
					d.add(n.place, "%s%q %v", prefix(path+".no_proxy"), s, err)
					return
				}
				u.NoProxy = append(u.NoProxy, entry)
			})
		}},
	)
	if n.kind != mapping {
		return u
	}
	url := n.get("url")
	if needURL && url == nil {
		d.add(n.place, "%swant a url: that of the proxy, or \"\" for none", prefix(path))
		return u
	}
	none := url == nil || url.value.kind == scalar && url.value.value == ""
	for _, key := range []string{"username", "password_file", "no_proxy"} {
		e := n.get(key)
		if e == nil || !none || e.value.kind == scalar && e.value.value == "" || e.value.kind == list && len(e.value.items) == 0 {
			continue
		}
		d.add(e.place, "%s.%s needs a url: without one there is no proxy", visible(path), key)
	}
	if u.Username == "" && u.PasswordFile != "" && !none {
		d.add(n.get("password_file").place, "%s.password_file needs a username", visible(path))
	}
	// RFC 7617 section 2: the first colon ends the name.
	if strings.Contains(u.Username, ":") {
		d.add(n.get("username").value.place, "%s.username has a colon, which Basic authentication cannot carry", visible(path))
	}
	return u
}

// proxyURL reads scheme, host and port. Credentials in it would end up wherever
// the address is shown.
func (d *decoder) proxyURL(n *node, path string, u *UpstreamProxy) {
	s, ok := d.text(n, path)
	if !ok || s == "" {
		return
	}
	at := prefix(path)
	parsed, err := url.Parse(s)
	if err != nil || !strings.Contains(s, "://") {
		hint := ""
		if !strings.Contains(s, "/") && !strings.Contains(s, "@") {
			hint = ` (did you mean "http://` + s + `"?)`
		}
		d.add(n.place, "%swant an address such as http://proxy.example.com:3128, found %q%s", at, withoutUserinfo(s), hint)
		return
	}
	scheme := ProxyScheme(parsed.Scheme)
	port := uint16(80)
	switch {
	case scheme != ProxyHTTP && scheme != ProxyHTTPS:
		d.add(n.place, "%sscheme %q: want http or https%s", at, parsed.Scheme, suggest(parsed.Scheme, []string{"http", "https"}))
		return
	case parsed.User != nil:
		d.add(n.place, "%scredentials have the keys username and password_file", at)
		return
	case parsed.Path != "" && parsed.Path != "/" || parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "":
		d.add(n.place, "%swant scheme, host and port only, found %q", at, s)
		return
	case scheme == ProxyHTTPS:
		port = 443
	}
	if p := parsed.Port(); p != "" {
		v, err := strconv.ParseUint(p, 10, 16)
		if err != nil || v == 0 {
			d.add(n.place, "%sbad port %q", at, p)
			return
		}
		port = uint16(v)
	}
	name := parsed.Hostname()
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	host, err := pattern.CanonicalHost(name)
	if err != nil {
		d.add(n.place, "%sthe host %q %v", at, parsed.Hostname(), err)
		return
	}
	u.Scheme, u.Host, u.Port = scheme, host, port
}

// withoutUserinfo keeps a password that was written into an address out of the
// message about it.
func withoutUserinfo(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

func showUpstreamProxy(u *UpstreamProxy) *yaml.Node {
	if u == nil {
		return nil
	}
	entries := make([]string, len(u.NoProxy))
	for i := range u.NoProxy {
		entries[i] = u.NoProxy[i].String()
	}
	return object("url", text(u.URL()), "username", text(u.Username), "password_file", text(u.PasswordFile), "no_proxy", texts(entries))
}

// ProxyOf gives the proxy by which the connections of a rule leave, nil for
// none: its own block, which `defaults` has filled in, or the file's.
func (c *Config) ProxyOf(r *Rule) *UpstreamProxy {
	u := &c.UpstreamProxy
	if r != nil && r.UpstreamProxy != nil {
		u = r.UpstreamProxy
	}
	if !u.set() || r != nil && (r.Action == Deny || r.Handling == Direct) {
		return nil
	}
	return u
}

// UpstreamProxies lists every proxy of the configuration once.
func (c *Config) UpstreamProxies() []*UpstreamProxy {
	var all []*UpstreamProxy
	seen := make(map[*UpstreamProxy]bool)
	add := func(u *UpstreamProxy) {
		if u.set() && !seen[u] {
			seen[u] = true
			all = append(all, u)
		}
	}
	add(&c.UpstreamProxy)
	for i := range c.Rules {
		add(c.ProxyOf(&c.Rules[i]))
	}
	return all
}
