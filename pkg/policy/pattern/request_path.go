package pattern

import (
	"strings"
	"unicode/utf8"
)

// A feature is something in a path that servers read in more than one way.
type feature uint8

const (
	// encodedSlash is %2F: a slash for some, a character for others.
	encodedSlash feature = 1 << iota
	// emptySegment is "//", which many servers merge (nginx's merge_slashes).
	emptySegment
	// parameters are ";v=1" behind a segment, which servlet containers remove
	// before they compare (RFC 3986 section 3.3).
	parameters
	// finalDots are dots or spaces that end a segment, which Windows removes.
	finalDots
)

// A RequestPath is a path as received, made ready for comparison.
type RequestPath struct {
	// forward is normalised and equivalent to what was received.
	forward string
	// key is forward with the other encoded characters of RFC 3986's pchar
	// decoded as well: servers decode before they compare.
	key      string
	features feature
	// readings are the other ways in which the path may be read.
	readings []reading
	// ambiguous names what makes the path unfit for comparison.
	ambiguous string
	steps     int
}

type reading struct {
	features feature
	key      string
}

// NormalisePath makes a raw path, without its query, ready. It does not
// allocate for a path that is in normal form, as nearly all are.
func NormalisePath(raw string) RequestPath {
	if raw == "" {
		raw = "/"
	}
	if isNormal(raw) {
		return RequestPath{forward: raw, key: raw}
	}
	r := normalise(raw)
	if r.ambiguous == "" {
		r.addReadings()
	}
	return r
}

// Forward gives the path to send upstream: the one that was compared.
func (r *RequestPath) Forward() string { return r.forward }

// Ambiguous says why the path must not be compared; "" where it may be.
func (r *RequestPath) Ambiguous() string { return r.ambiguous }

// Plain reports whether the path can be read in one way only.
func (r *RequestPath) Plain() bool {
	return r.features == 0 && len(r.readings) == 0 && r.ambiguous == ""
}

// Key gives the form in which the path is compared with Path.Prefix.
func (r *RequestPath) Key() string { return r.key }

// asIs are the bytes of RFC 3986's pchar that stand for themselves and that
// every server reads alike, and the slash. ";" is not among them.
const asIs = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/"

// asIsTable is asIs by byte.
var asIsTable = func() (t [256]bool) {
	for _, c := range []byte(asIs) {
		t[c] = true
	}
	return t
}()

// isNormal reports whether the path needs no work at all.
func isNormal(s string) bool {
	if s[0] != '/' {
		return false
	}
	previous := byte(0)
	for i := range len(s) {
		c := s[i]
		if !asIsTable[c] {
			return false
		}
		if c == '/' && (previous == '/' || previous == '.') {
			return false
		}
		previous = c
	}
	return previous != '.'
}

// normalise brings a whole path into normal form and finds what makes it
// ambiguous.
func normalise(raw string) RequestPath {
	r, decoded := encode(raw)
	switch {
	case r.ambiguous != "":
	case raw[0] != '/' && raw != "*":
		// Nothing but "*" (RFC 9112 section 3.2.4) begins otherwise.
		r.ambiguous = "no leading slash"
	case hasDoubleEncoding(r.forward):
		r.ambiguous = "double encoding"
	case !utf8.Valid(decoded):
		// Overlong forms (RFC 3629 section 3) are slashes and dots to some.
		r.ambiguous = "bytes that are not UTF-8"
	case hasDotSegment(r.key):
		r.ambiguous = "a dot segment"
	}
	if r.ambiguous != "" {
		// The path stands as it was received.
		return RequestPath{forward: raw, key: raw, ambiguous: r.ambiguous}
	}
	return r
}

// encode decodes what RFC 3986 section 6.2.2.2 calls unreserved, writes the
// rest of the encoding in upper case and encodes what should have been. It
// also gives the bytes with everything decoded.
func encode(raw string) (RequestPath, []byte) {
	var r RequestPath
	forward := make([]byte, 0, len(raw)+16)
	key := make([]byte, 0, len(raw)+16)
	decoded := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c, encoded := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				r.ambiguous = "a % without two hexadecimal digits"
				break
			}
			c, encoded = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		decoded = append(decoded, c)
		switch {
		case c == '\\':
			r.ambiguous = "a backslash"
		case c < 0x20 || c == 0x7f:
			r.ambiguous = "a control character"
		case !encoded && (c == '?' || c == '#'):
			r.ambiguous = "a query or fragment"
		case encoded && c == '/':
			r.features |= encodedSlash
			forward, key = append(forward, "%2F"...), append(key, "%2F"...)
		case !asIsTable[c] && c != ';':
			forward, key = appendEncoded(forward, c), appendEncoded(key, c)
		case encoded && !isUnreserved(c):
			forward, key = appendEncoded(forward, c), append(key, c)
		default:
			forward, key = append(forward, c), append(key, c)
		}
	}
	r.forward, r.key = string(forward), string(key)
	return r, decoded
}

// featuresOf finds in a key what servers read in more than one way.
func featuresOf(key string) (f feature) {
	if strings.Contains(key, "%2F") {
		f |= encodedSlash
	}
	if strings.Contains(key, "//") {
		f |= emptySegment
	}
	if strings.Contains(key, ";") {
		f |= parameters
	}
	for segment := range strings.SplitSeq(key, "/") {
		name, _, _ := strings.Cut(segment, ";")
		if trimDots(name) != name {
			f |= finalDots
		}
	}
	return f
}

// addReadings writes the path down in every other way in which a server may
// read it: without empty segments, parameters, final dots, and any two of them.
func (r *RequestPath) addReadings() {
	r.features = featuresOf(r.key)
	others := r.features &^ encodedSlash
	if others != 0 {
		// Removing the others may leave a segment empty.
		others |= emptySegment
	}
	for f := feature(1); f <= others; f++ {
		if f&others != f {
			continue
		}
		if key := r.read(f); key != r.key {
			r.readings = append(r.readings, reading{features: f, key: key})
		}
	}
}

// read gives the path as a server that removes these features reads it.
func (r *RequestPath) read(f feature) string {
	var b strings.Builder
	b.Grow(len(r.key))
	segments := strings.Split(r.key, "/")
	for i, segment := range segments {
		if f&parameters != 0 {
			segment, _, _ = strings.Cut(segment, ";")
		}
		if f&finalDots != 0 {
			name, rest, found := strings.Cut(segment, ";")
			if segment = trimDots(name); found {
				segment += ";" + rest
			}
		}
		last := i == len(segments)-1
		if f&emptySegment != 0 && segment == "" && i > 0 && !last {
			continue
		}
		b.WriteString(segment)
		if !last {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// hasDotSegment looks at segments as they are after parameters are removed, and
// takes %2F for a slash too: /a;x/..;y/b and /a%2F..%2Fb climb on some server.
// Segments of more dots count: some systems climb twice for three.
func hasDotSegment(key string) bool {
	for part := range strings.SplitSeq(key, "/") {
		for segment := range strings.SplitSeq(part, "%2F") {
			name, _, _ := strings.Cut(segment, ";")
			if strings.Contains(name, ".") && trimDots(name) == "" {
				return true
			}
		}
	}
	return false
}

// trimDots removes the dots and spaces that end a segment.
func trimDots(s string) string {
	for {
		short := strings.TrimSuffix(strings.TrimRight(s, "."), "%20")
		if short == s {
			return s
		}
		s = short
	}
}

// hasDoubleEncoding reports whether decoding once more would decode something:
// %252F, and %25u002F, which IIS understands.
func hasDoubleEncoding(s string) bool {
	for {
		_, rest, found := strings.Cut(s, "%25")
		if !found {
			return false
		}
		if len(rest) >= 2 && (isHex(rest[0]) && isHex(rest[1]) || rest[0] == 'u' || rest[0] == 'U') {
			return true
		}
		s = rest
	}
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

func appendEncoded(b []byte, c byte) []byte {
	const digits = "0123456789ABCDEF"
	return append(b, '%', digits[c>>4], digits[c&15])
}
