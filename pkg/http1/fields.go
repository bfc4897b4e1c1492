package http1

import (
	"bytes"

	"sallyport/pkg/exchange"
)

// Classes of bytes.
const (
	isToken  = 1 << iota // tchar, RFC 9110 section 5.6.2
	isValue              // may stand in a field value: HTAB, SP, VCHAR, obs-text
	isTarget             // may stand in a request target: no controls, no space, no "#"
)

// classes gives the classes of each byte; it is written once, here.
var classes = func() (t [256]uint8) {
	for c := range 256 {
		if c == '\t' || c >= 0x20 && c != 0x7f {
			t[c] |= isValue
		}
		// Bytes over 0x7f are not allowed by RFC 3986 but sent by common
		// clients; they frame nothing and are matched and forwarded as they are.
		if c > 0x20 && c != 0x7f && c != '#' {
			t[c] |= isTarget
		}
	}
	const alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for _, c := range alnum + "!#$%&'*+-.^_`|~" {
		t[c] |= isToken
	}
	return t
}()

func all(s string, class uint8) bool {
	for i := 0; i < len(s); i++ {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

func isTokenString(s string) bool { return s != "" && all(s, isToken) }

// parseFields appends the field lines in p, which ends with the empty line, to
// h. Every line is known to end in CRLF.
func parseFields(p []byte, h *exchange.Header, limit int) error {
	for {
		end := bytes.IndexByte(p, '\n')
		line := p[:end-1]
		if len(line) == 0 {
			return nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			return malformed("line that begins with whitespace (obs-fold)")
		}
		colon := 0
		for colon < len(line) && classes[line[colon]]&isToken != 0 {
			colon++
		}
		switch {
		case colon == len(line):
			return malformed("field line without a colon")
		case line[colon] == ' ' || line[colon] == '\t':
			return malformed("whitespace before the colon of a field line")
		case line[colon] != ':':
			return malformed("character in a field name that no name may hold")
		case colon == 0:
			return malformed("empty field name")
		case h.Len() == limit:
			return malformed("too many field lines")
		}
		value := line[colon+1:]
		for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
			value = value[1:]
		}
		for n := len(value); n > 0 && (value[n-1] == ' ' || value[n-1] == '\t'); n = len(value) {
			value = value[:n-1]
		}
		for _, c := range value {
			if classes[c]&isValue == 0 {
				return malformed("control character in a field value")
			}
		}
		name := freeze(line[:colon])
		h.Append(exchange.Field{Name: name, Value: freeze(value), ID: exchange.LookupName(name), Checked: true})
		p = p[end+1:]
	}
}

// framing is what the fields of a message say about its end and its
// connection.
type framing struct {
	length     int64 // -1: not declared
	chunked    bool
	host       string
	hosts      int
	upgrade    string
	connection connection
}

// connection is what the Connection fields of a message say.
type connection struct {
	close, keepAlive, upgrade, te bool
	options                       int
	names                         [maxNominations]string
	nominated                     int
}

// readFraming judges the framing fields of a message of either side (RFC 9112
// section 6). Nothing is tolerated twice: of two values another parser may
// take the other one.
func readFraming(h *exchange.Header, version exchange.Version, f *framing) error {
	f.length = -1
	for i := range h.Len() {
		field := h.At(i)
		switch field.ID {
		case exchange.ContentLength:
			if f.length >= 0 {
				return malformed("repeated Content-Length")
			}
			n, ok := exchange.ParseLength(field.Value)
			if !ok {
				return malformed("Content-Length that is not a plain decimal number")
			}
			f.length = n
		case exchange.TransferEncoding:
			if f.chunked {
				return malformed("repeated Transfer-Encoding")
			}
			if err := chunkedOnly(field.Value); err != nil {
				return err
			}
			f.chunked = true
		case exchange.Host:
			f.hosts++
			f.host = field.Value
		case exchange.Connection:
			if err := f.connection.read(field.Value); err != nil {
				return err
			}
		case exchange.Upgrade:
			if f.upgrade != "" {
				f.upgrade += ", "
			}
			f.upgrade += field.Value
		}
	}
	if f.chunked && f.length >= 0 {
		return malformed("Content-Length together with Transfer-Encoding")
	}
	if f.chunked && version == exchange.HTTP10 {
		return malformed("Transfer-Encoding in HTTP/1.0")
	}
	return nil
}

// chunkedOnly accepts exactly "chunked". Another well-formed coding is
// answered 501 (RFC 9112 section 6.1), the rest is malformed.
func chunkedOnly(value string) error {
	if exchange.EqualFold(value, "chunked") {
		return nil
	}
	other := false
	for rest := value; ; {
		element, more, found := cut(rest, ',')
		if name, _, _ := cut(element, ';'); !isTokenString(trim(name)) {
			return malformed("Transfer-Encoding that is not a list of codings")
		} else if !exchange.EqualFold(trim(name), "chunked") {
			other = true
		}
		if !found {
			break
		}
		rest = more
	}
	if other {
		return unsupportedCoding()
	}
	return malformed("chunked applied more than once or with parameters")
}

func (c *connection) read(value string) error {
	for rest, found := value, true; found; {
		var option string
		option, rest, found = cut(rest, ',')
		option = trim(option)
		if option == "" {
			continue
		}
		if c.options++; c.options > maxNominations {
			return malformed("too many options in Connection")
		}
		switch {
		case !isTokenString(option):
			return malformed("Connection that is not a list of tokens")
		case exchange.EqualFold(option, "close"):
			c.close = true
		case exchange.EqualFold(option, "keep-alive"):
			c.keepAlive = true
		case exchange.EqualFold(option, "upgrade"):
			c.upgrade = true
		case exchange.EqualFold(option, "te"):
			c.te = true
		case exchange.LookupName(option).Nominable():
			c.names[c.nominated] = option
			c.nominated++
		}
		// What is left names a field that is meant for every recipient. The
		// option is void: obeying it would let the sender remove what frames,
		// routes or authorises the message.
	}
	return nil
}

// persists reports whether the sender keeps its connection open (RFC 9112
// section 9.3).
func (c *connection) persists(version exchange.Version) bool {
	return !c.close && (version == exchange.HTTP11 || c.keepAlive)
}

// dropHopByHop removes what belongs to one connection, before anyone judges
// the message: what is judged is what is forwarded.
func dropHopByHop(h *exchange.Header, c *connection, extra exchange.NameID) {
	hop := c.nominated > 0
	for i := 0; i < h.Len() && !hop; i++ {
		id := h.At(i).ID
		hop = id.HopByHop() || id == extra && id != exchange.OtherName
	}
	if !hop {
		return
	}
	h.DeleteFunc(func(f *exchange.Field) bool {
		if f.ID.HopByHop() || f.ID == extra && f.ID != exchange.OtherName {
			return true
		}
		if f.ID == exchange.OtherName {
			for _, name := range c.names[:c.nominated] {
				if exchange.EqualFold(f.Name, name) {
					return true
				}
			}
		}
		return false
	})
}

// offered keeps of an Upgrade list what leads to a protocol other than HTTP:
// HTTP inside the switched connection would be requests that nobody judges.
func offered(upgrade string) (string, error) {
	kept, dropped := "", false
	for rest, found := upgrade, true; found; {
		var protocol string
		protocol, rest, found = cut(rest, ',')
		protocol = trim(protocol)
		if protocol == "" {
			continue
		}
		name, version, versioned := cut(protocol, '/')
		if !isTokenString(name) || versioned && !isTokenString(version) {
			return "", malformed("Upgrade that is not a list of protocols")
		}
		if carriesHTTP(name) {
			dropped = true
			continue
		}
		if kept != "" {
			kept += ", "
		}
		kept += protocol
	}
	if !dropped {
		return upgrade, nil
	}
	return kept, nil
}

// carriesHTTP also knows the names of drafts, such as h2c-14 and SPDY/3.1, which
// servers have kept.
func carriesHTTP(protocol string) bool {
	for _, name := range [...]string{"HTTP", "h2", "h3", "SPDY", "TLS", "SSL"} {
		if len(protocol) >= len(name) && exchange.EqualFold(protocol[:len(name)], name) {
			return true
		}
	}
	return false
}

func cut(s string, sep byte) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		if s[i] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
