package policy

import (
	"errors"
	"strconv"
	"strings"

	"sallyport/pkg/policy/pattern"
)

// CanonicalHost brings a host name, without a port, into the one form in which
// names are compared: lower case, IDNA A-labels, no final dot; an address as
// netip writes it, without brackets and never IPv4-mapped. It refuses what two
// programs could read differently: 0x7f.1, decimal and octal addresses, zone
// ids, empty labels, other characters. The error continues "the host name …".
// It does not allocate where the name is canonical already.
func CanonicalHost(host string) (string, error) { return pattern.CanonicalHost(host) }

// CanonicalAuthority splits "host" or "host:port" (RFC 9110 section 7.2) and
// gives the canonical host and the port, or the given one where there is none.
// An IPv6 address must stand in brackets; user information is refused.
func CanonicalAuthority(authority string, port uint16) (string, uint16, error) {
	host, digits := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && i > strings.LastIndexByte(authority, ']') {
		host, digits = authority[:i], authority[i+1:]
	}
	if strings.IndexByte(host, ':') >= 0 && host[0] != '[' {
		return "", 0, errors.New("has an IPv6 address without brackets")
	}
	if digits != "" {
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 || digits[0] == '+' {
			return "", 0, errors.New("has a bad port")
		}
		port = uint16(n)
	}
	canonical, err := CanonicalHost(host)
	return canonical, port, err
}

// IsAddress reports whether a canonical host is an IP address.
func IsAddress(host string) bool { return pattern.IsAddress(host) }
