package http2

import (
	"strings"

	"sallyport/pkg/exchange"
)

// Classes of bytes.
const (
	isName   = 1 << iota // tchar of RFC 9110 section 5.6.2 without upper case (RFC 9113 section 8.2.1)
	isToken              // tchar
	isValue              // may stand in a field value: HTAB, SP, VCHAR, obs-text
	isTarget             // may stand in :path: no controls, no space, no "#"
	isUpper              // A to Z
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
		if c >= 'A' && c <= 'Z' {
			t[c] |= isUpper
		}
	}
	const lower = "0123456789abcdefghijklmnopqrstuvwxyz"
	const upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for _, c := range lower + "!#$%&'*+-.^_`|~" {
		t[c] |= isName | isToken
	}
	for _, c := range upper {
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

// isFieldValue also forbids whitespace at either end, which RFC 9113 section
// 8.2.1 does not let a field value have.
func isFieldValue(s string) bool {
	if s == "" {
		return true
	}
	first, last := s[0], s[len(s)-1]
	return first != ' ' && first != '\t' && last != ' ' && last != '\t' && all(s, isValue)
}

// lowered gives a field name as HTTP/2 writes it.
func lowered(f *exchange.Field) string {
	for i := 0; i < len(f.Name); i++ {
		if classes[f.Name[i]]&isUpper != 0 {
			if f.ID != exchange.OtherName {
				return lowerNames[f.ID]
			}
			return strings.ToLower(f.Name)
		}
	}
	return f.Name
}

// lowerNames gives the known names in lower case, by their id.
var lowerNames = func() (t [exchange.Accept + 1]string) {
	for id := range t {
		t[id] = strings.ToLower(exchange.NameID(id).String())
	}
	return t
}()
