package nginx

import (
	"net/textproto"
	"slices"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// fieldVariables are those of nginx that ours say too.
var fieldVariables = strings.NewReplacer(
	"$proxy_add_x_forwarded_for", "{forwarded_for}", "$remote_addr", "{client_ip}", "$scheme", "{scheme}", "$http_host", "{host}", "$host", "{host}",
	"$server_port", "{port}", "$request_method", "{method}", "$document_uri", "{path}", "$uri", "{path}", "$query_string", "{query}", "$args", "{query}",
)

// fieldValue writes a value of proxy_set_header with our variables; false where
// it holds others.
func fieldValue(s string) (string, bool) {
	if convert.HasVariable(s) {
		return "", false
	}
	for _, name := range variables(s) {
		plain := "$" + name
		if fieldVariables.Replace(plain) == plain || strings.Contains(fieldVariables.Replace(plain), "$") || !strings.HasSuffix(fieldVariables.Replace(plain), "}") {
			return "", false
		}
		s = strings.ReplaceAll(s, "${"+name+"}", plain)
	}
	return fieldVariables.Replace(s), true
}

// variables gives the names behind the dollars of s.
func variables(s string) (all []string) {
	for {
		_, rest, ok := strings.Cut(s, "$")
		if !ok {
			return all
		}
		rest = strings.TrimPrefix(rest, "{")
		n := strings.IndexFunc(rest, func(c rune) bool {
			return c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9')
		})
		if n < 0 {
			n = len(rest)
		}
		all, s = append(all, rest[:n]), rest[n:]
	}
}

// setHeaders carries proxy_set_header.
func (b *build) setHeaders() {
	c := b.c
	for _, d := range b.l.level("proxy_set_header") {
		name, value := textproto.CanonicalMIMEHeaderKey(d.arg(0)), d.arg(1)
		if name == "Host" {
			continue
		}
		if config.OwnField(name) {
			c.notes.Add(d.Place, convert.Tuning, "proxy_set_header %s: belongs to the connection, which is our own; nothing to do", name)
			continue
		}
		if value == "" {
			b.remove(name)
			continue
		}
		if strings.EqualFold(value, "$http_"+strings.ReplaceAll(d.arg(0), "-", "_")) {
			// What the program sends passes as it is.
			continue
		}
		text, ok := fieldValue(value)
		if !ok {
			c.lost(d.Place, "proxy_set_header %s %s: not carried: docs/controls.md lists the variables; what a program sends under that name is removed, so that nobody else writes it", name, value)
			b.remove(name)
			continue
		}
		if strings.Contains(text, "{host}") {
			c.changed(d.Place, "proxy_set_header %s: the host that a caller asked for was nginx; here it is the origin", name)
		}
		if strings.Contains(text, "{client_ip}") || strings.Contains(text, "{forwarded_for}") {
			c.changed(d.Place, "proxy_set_header %s: the address is the program's own end of its connection, on loopback; leave the field out if the origin does not need it", name)
		}
		h := &b.headers().Request
		h.Set = append(slices.DeleteFunc(h.Set, func(f config.HeaderField) bool { return f.Name == name }), config.HeaderField{Name: name, Value: strings.TrimSpace(text)})
	}
}

func (b *build) headers() *config.Headers {
	if b.rule.Stages.Headers == nil {
		b.rule.Stages.Headers = &config.Headers{}
	}
	return b.rule.Stages.Headers
}

func (b *build) remove(name string) {
	h := &b.headers().Request
	if !slices.Contains(h.Remove, name) {
		h.Remove = append(h.Remove, name)
	}
}

// responseHeaders carries add_header and proxy_hide_header.
func (b *build) responseHeaders() {
	c, l := b.c, b.l
	for _, d := range l.level("proxy_hide_header") {
		name := textproto.CanonicalMIMEHeaderKey(d.arg(0))
		if !config.OwnField(name) {
			b.headers().Response.Remove = append(b.headers().Response.Remove, name)
		}
	}
	for _, d := range l.level("add_header") {
		name, value := textproto.CanonicalMIMEHeaderKey(d.arg(0)), d.arg(1)
		text, ok := fieldValue(value)
		switch {
		case !ok || config.OwnField(name):
			c.lost(d.Place, "add_header %s %s: not carried: docs/controls.md lists the variables", name, value)
		case value == "":
		default:
			if d.arg(2) != "always" {
				c.changed(d.Place, "add_header %s: written whatever the status is, as with always", name)
			}
			b.headers().Response.Add = append(b.headers().Response.Add, config.HeaderField{Name: name, Value: text})
		}
	}
}
