package config

import (
	"net/textproto"
	"strings"
)

// headerChanges reads what is changed on the way to the upstream and back; nil
// where that is nothing.
func (d *decoder) headerChanges(n *node, path string) *Headers {
	h := &Headers{}
	before := len(d.errs)
	d.object(n, path,
		field{"request", func(n *node) { d.changes(n, path+".request", &h.Request) }},
		field{"response", func(n *node) { d.changes(n, path+".response", &h.Response) }},
	)
	if len(d.errs) == before && h.Request.empty() && h.Response.empty() {
		return nil
	}
	return h
}

func (c *HeaderChanges) empty() bool { return len(c.Set)+len(c.Add)+len(c.Remove) == 0 }

func (d *decoder) changes(n *node, path string, c *HeaderChanges) {
	set := make(map[string]place)
	d.object(n, path,
		field{"set", func(n *node) { c.Set = d.headerFields(n, path+".set", false) }},
		field{"add", func(n *node) { c.Add = d.headerFields(n, path+".add", true) }},
		field{"remove", func(n *node) {
			if n.kind == list && len(n.items) > MaxFew {
				d.add(n.place, "%smore than %d", prefix(path+".remove"), MaxFew)
				return
			}
			d.items(n, path+".remove", func(n *node) {
				name, ok := d.headerName(n, path+".remove")
				if why := unchangeable(name); ok && why != "" {
					d.add(n.place, "%s%q %s", prefix(path+".remove"), name, why)
				} else if at, twice := set[name]; ok && twice {
					d.add(n.place, "%s%q is already given at %s", prefix(path+".remove"), name, at)
				} else if ok {
					set[name] = n.place
					c.Remove = append(c.Remove, name)
				}
			})
		}},
	)
}

// headerFields reads a mapping of names to values; of several the value may be
// a list.
func (d *decoder) headerFields(n *node, path string, several bool) (all []HeaderField) {
	if n.kind != mapping {
		d.add(n.place, "%swant a mapping of header names to values, found %s", prefix(path), n.found())
		return nil
	}
	if len(n.entries) > MaxFew {
		d.add(n.place, "%smore than %d", prefix(path), MaxFew)
		return nil
	}
	first := make(map[string]place)
	for i := range n.entries {
		e := &n.entries[i]
		if !isToken(e.key) {
			d.add(e.place, "%s%q is no header name", prefix(path), e.key)
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(e.key)
		if why := unchangeable(name); why != "" {
			d.add(e.place, "%s%q %s", prefix(path), name, why)
			continue
		}
		if at, twice := first[name]; twice {
			d.add(e.place, "%s%q is already given at %s", prefix(path), e.key, at)
			continue
		}
		first[name] = e.place
		read := func(n *node) {
			s, ok := d.text(n, path+"."+e.key)
			switch {
			case !ok:
			case strings.TrimSpace(s) != s:
				d.add(n.place, "%s%q: a value has no spaces around it", prefix(path+"."+e.key), s)
			default:
				all = append(all, HeaderField{name, s})
			}
		}
		switch {
		case several:
			d.few(e.value, path+"."+e.key, MaxFew, read)
		default:
			read(e.value)
		}
	}
	return all
}

// OwnField reports whether a field belongs to sallyport alone, so that no rule
// may change or demand it: those that frame a message, that live on one
// connection only, that would send the workload past the gate, and Host, which
// policy has judged and TLS verified.
func OwnField(name string) bool {
	return unchangeable(textproto.CanonicalMIMEHeaderKey(name)) != ""
}

// unchangeable says why no rule may write or remove a field: it continues the
// field's name. Names are in canonical MIME form.
func unchangeable(name string) string {
	switch name {
	case "Host":
		return "names what was judged: `upstream` sends a request elsewhere"
	case "Content-Encoding":
		return "says how the body is written, which no rule changes"
	case "Content-Length", "Transfer-Encoding", "Trailer":
		return "says where a message ends, which only its body can tell (RFC 9112 section 6)"
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Upgrade", "Http2-Settings":
		return "belongs to one connection and is not forwarded (RFC 9110 section 7.6.1)"
	case "Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info":
		return "is for a proxy and is not forwarded (RFC 9110 section 11.7): `upstream_proxy` has credentials"
	case "Expect":
		return "asks for an answer before the body is sent (RFC 9110 section 10.1.1), which is between two connections"
	case "Alt-Svc":
		return "names a way to the server that nobody judges (RFC 7838)"
	}
	if strings.HasPrefix(name, "X-Sallyport-") {
		return "is how a workload knows our own answers"
	}
	return ""
}
