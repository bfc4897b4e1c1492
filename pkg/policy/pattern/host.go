package pattern

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// A Host is a canonical pattern of host names: an exact name or address, or
// "*.name" (any depth of subdomain, not the name itself), or "*" (any name,
// no address).
type Host struct {
	// Name is the exact name, or what follows "*."; "" for "*".
	Name string
	// Wildcard is true for "*.name" and "*".
	Wildcard bool
}

// String writes the pattern as configuration has it.
func (h Host) String() string {
	switch {
	case !h.Wildcard:
		return h.Name
	case h.Name == "":
		return "*"
	default:
		return "*." + h.Name
	}
}

// Match reports whether the canonical host name matches.
func (h Host) Match(host string) bool {
	switch {
	case !h.Wildcard:
		return host == h.Name
	case host == "" || IsAddress(host):
		return false
	case h.Name == "":
		return true
	default:
		n := len(host) - len(h.Name)
		return n > 1 && host[n-1] == '.' && host[n:] == h.Name
	}
}

// ParseHost reads a host pattern; the error says what is wrong with it.
func ParseHost(s string) (Host, error) {
	name, wildcard := s, false
	if s == "*" {
		return Host{Wildcard: true}, nil
	}
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		name, wildcard = rest, true
	}
	switch {
	case strings.Contains(name, "*"):
		return Host{}, errors.New(`may have "*" only as its whole first label, as in "*.example.com"`)
	case strings.Contains(name, "/"):
		return Host{}, errors.New("must be a name alone, without scheme or path")
	}
	canonical, err := CanonicalHost(name)
	if err != nil {
		if before, _, ok := strings.Cut(name, ":"); ok && before != "" && !strings.Contains(before, "[") {
			return Host{}, errors.New(`must be a name alone: ports have the key "ports"`)
		}
		return Host{}, err
	}
	if wildcard && IsAddress(canonical) {
		return Host{}, errors.New("is an address, which has no subdomains")
	}
	return Host{Name: canonical, Wildcard: wildcard}, nil
}

// IsAddress reports whether a canonical host is an IP address.
func IsAddress(host string) bool {
	if host == "" {
		return false
	}
	// A canonical name never ends in a numeric label and never has a colon.
	last := host[len(host)-1]
	return '0' <= last && last <= '9' && endsInNumber(host) || strings.IndexByte(host, ':') >= 0
}

// names maps as browsers do (UTS #46, not transitional): names that people
// write reach the resolver in that form. Hyphens and underscores stay: such
// hosts exist.
var names = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.BidiRule(),
	idna.CheckJoiners(true),
	idna.CheckHyphens(false),
	idna.StrictDomainName(false),
)

// maxHostInput bounds what is given to IDNA: four bytes of UTF-8 for each byte
// of the longest name, and its dots.
const maxHostInput = 1024

// CanonicalHost brings a host name, without a port, into the one form in which
// names are compared: lower case, IDNA A-labels, no final dot; an address as
// netip writes it, without brackets and never IPv4-mapped. It refuses what two
// programs could read differently: 0x7f.1, decimal and octal addresses, zone
// ids, empty labels, characters outside letters, digits, "-" and "_". It does
// not allocate where the name is canonical already.
func CanonicalHost(host string) (string, error) {
	if host == "" {
		return "", errors.New("is empty")
	}
	if len(host) > maxHostInput {
		return "", errors.New("is too long for a host name")
	}
	if host[0] == '[' || strings.IndexByte(host, ':') >= 0 {
		return canonicalIPv6(host)
	}
	name := host
	if !isPlain(name) {
		if strings.IndexByte(name, '%') >= 0 {
			return "", errors.New(`has a "%": a host name is not percent-encoded`)
		}
		lower, ascii := lowerASCII(name)
		if !utf8.ValidString(name) || strings.ContainsRune(name, utf8.RuneError) {
			return "", errors.New("is not UTF-8")
		}
		if name = lower; !ascii || strings.Contains(lower, "xn--") {
			mapped, err := names.ToASCII(lower)
			if err != nil {
				return "", fmt.Errorf("is no valid international name: %w", err)
			}
			name = mapped
		}
	}
	name = strings.TrimSuffix(name, ".")
	if err := checkName(name); err != nil {
		return "", err
	}
	if !endsInNumber(name) {
		return name, nil
	}
	// What ends in a number is an IPv4 address or nothing (WHATWG URL, section
	// 3.5). Dotted decimal is what everybody reads alike; inet_aton(3) takes
	// 0x7f.1, 017700000001 and 127.1 too, where others see a name.
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return "", errors.New("is an IPv4 address in an unusual notation, or none: write it as 192.0.2.1")
	}
	return keep(name, addr), nil
}

// keep gives text where it is already what addr is written as.
func keep(text string, addr netip.Addr) string {
	var buf [maxAddressText]byte
	if written := addr.AppendTo(buf[:0]); string(written) != text {
		return string(written)
	}
	return text
}

// maxAddressText is the length of the longest address without a zone.
const maxAddressText = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

func canonicalIPv6(host string) (string, error) {
	text := host
	if text[0] == '[' {
		if text[len(text)-1] != ']' {
			return "", errors.New(`has a "[" without its "]"`)
		}
		text = text[1 : len(text)-1]
	}
	if strings.IndexByte(text, '%') >= 0 {
		return "", errors.New("is an address with a zone, which means nothing to anybody else")
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is6() {
		return "", errors.New("is neither a host name nor an IPv6 address")
	}
	return keep(text, addr.Unmap()), nil
}

// isPlain reports whether the name has only characters that stay as they are,
// and no label that IDNA must look at.
func isPlain(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !isNameByte(c) && c != '.' {
			return false
		}
		if c == 'x' && strings.HasPrefix(name[i:], "xn--") {
			return false
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// lowerASCII lowers the ASCII letters and reports whether all bytes are ASCII.
func lowerASCII(s string) (string, bool) {
	ascii := true
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
		ascii = ascii && c < 0x80
	}
	return string(b), ascii
}

// checkName holds the name to the limits of RFC 1035 section 2.3.4.
func checkName(name string) error {
	if len(name) > 253 {
		return errors.New("is longer than 253 bytes")
	}
	label := 0
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			if label == 0 {
				return errors.New("has an empty label")
			}
			if label > 63 {
				return errors.New("has a label longer than 63 bytes")
			}
			label = 0
			continue
		}
		if !isNameByte(name[i]) {
			return fmt.Errorf("has %q, which no host name has", name[i:i+1])
		}
		label++
	}
	return nil
}

// endsInNumber reports whether the last label is what inet_aton(3) takes for a
// number: decimal or octal digits, or 0x and hexadecimal digits.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if last == "" {
		return false
	}
	digits := true
	for i := range len(last) {
		digits = digits && '0' <= last[i] && last[i] <= '9'
	}
	if digits {
		return true
	}
	hex, ok := strings.CutPrefix(last, "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}
