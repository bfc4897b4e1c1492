package exchange

import (
	"net/netip"
	"strings"
)

// ParseLength reads 1*DIGIT of at most 18 digits, which fit an int64: the value
// of Content-Length (RFC 9110 section 8.6). Anything else, such as a sign or
// white space, is false.
func ParseLength(s string) (int64, bool) {
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

// SplitAuthority splits host, host:port, [v6] and [v6]:port (RFC 3986 section
// 3.2.2 without userinfo, which RFC 9110 section 4.2.4 and RFC 9113 section 8.3.1
// ban). Only names made of letters, digits, "-", ".", "_" and "~" pass, and a port
// of up to five digits up to 65535; port is "" without one. Host is empty where s
// is, or begins with ":".
func SplitAuthority(s string) (host, port string, ok bool) {
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
		if len(host) > 255 || !isRegName(host) {
			return "", "", false
		}
		if !found {
			return host, "", true
		}
	}
	n, digits := ParseLength(port)
	if !digits || len(port) > 5 || n > 65535 {
		return "", "", false
	}
	return host, port, true
}

// isRegName reports whether s has only characters of a registered name or an
// IPv4 address.
func isRegName(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~':
		default:
			return false
		}
	}
	return true
}
