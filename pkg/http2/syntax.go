package http2

import (
	"net/netip"
	"strings"

	"sallyport/pkg/exchange"
)

// Classes of bytes.
const (
	isName   = 1 << iota // tchar of RFC 9110 section 5.6.2 without upper case (RFC 9113 section 8.2.1)
	isToken              // tchar
	isValue              // may stand in a field value: HTAB, SP, VCHAR, obs-text
	isTarget             // may stand in :path: no controls, no space, no "#"
	isHostCh             // may stand in a registered name or an IPv4 address
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
	for _, c := range lower + upper + "-._~" {
		t[c] |= isHostCh
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

// parseLength reads 1*DIGIT of at most 18 digits, which fit an int64.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	return n, true
}

// splitAuthority splits host, host:port, [v6] and [v6]:port (RFC 3986 section
// 3.2.2 without userinfo, which RFC 9113 section 8.3.1 bans). Only names made
// of letters, digits, "-", ".", "_" and "~" pass, and a port of up to five
// digits up to 65535; port is "" without one.
func splitAuthority(s string) (host, port string, ok bool) {
	rest := s
	if s != "" && s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		addr, err := netip.ParseAddr(s[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", false
		}
		host, rest = s[:end+1], s[end+1:]
		if rest == "" {
			return host, "", true
		}
		if rest[0] != ':' {
			return "", "", false
		}
		port = rest[1:]
	} else {
		var found bool
		host, port, found = strings.Cut(s, ":")
		if len(host) > 255 || !all(host, isHostCh) {
			return "", "", false
		}
		if !found {
			return host, "", true
		}
	}
	n, digits := parseLength(port)
	if !digits || len(port) > 5 || n > 65535 {
		return "", "", false
	}
	return host, port, true
}
