package headers

import (
	"strconv"
	"strings"

	"sallyport/pkg/exchange"
)

// A variable stands in the value of a field for something of the exchange.
type variable uint8

// The variables. Anything else in braces is text.
const (
	text variable = iota
	workload
	rule
	clientIP
	forwardedFor
	scheme
	host
	port
	method
	path
	query
	variables
)

var variableNames = [variables]string{
	workload: "{workload}", rule: "{rule}", clientIP: "{client_ip}", forwardedFor: "{forwarded_for}",
	scheme: "{scheme}", host: "{host}", port: "{port}", method: "{method}", path: "{path}", query: "{query}",
}

// A part is text or a variable.
type part struct {
	of   variable
	text string
}

// split takes a value apart; one part of text where there is no variable.
func split(value string) []part {
	var parts []part
	add := func(s string) {
		if s != "" || len(parts) == 0 {
			parts = append(parts, part{text: s})
		}
	}
	begin := 0
next:
	for i := 0; i < len(value); i++ {
		if value[i] != '{' {
			continue
		}
		for v := workload; v < variables; v++ {
			if strings.HasPrefix(value[i:], variableNames[v]) {
				if i > begin {
					add(value[begin:i])
				}
				parts = append(parts, part{of: v})
				begin = i + len(variableNames[v])
				i = begin - 1
				continue next
			}
		}
	}
	if begin < len(value) || len(parts) == 0 {
		add(value[begin:])
	}
	return parts
}

// value puts the parts together for an exchange.
func value(parts []part, x *exchange.Exchange) string {
	if len(parts) == 1 && parts[0].of != clientIP && parts[0].of != forwardedFor && parts[0].of != port {
		return whole(parts[0], x)
	}
	var room [256]byte
	b := room[:0]
	for _, p := range parts {
		switch p.of {
		case clientIP:
			b = appendClient(b, x)
		case forwardedFor:
			for v := range x.Request.Header.Values("X-Forwarded-For") {
				b = append(b, v...)
				b = append(b, ", "...)
			}
			b = appendClient(b, x)
		case port:
			b = strconv.AppendUint(b, uint64(x.Subject.Port), 10)
		default:
			b = append(b, whole(p, x)...)
		}
	}
	return string(b)
}

// whole gives what needs no memory.
func whole(p part, x *exchange.Exchange) string {
	switch p.of {
	case workload:
		return x.Subject.Workload
	case rule:
		return x.Subject.Rule
	case scheme:
		return x.Subject.Scheme
	case host:
		return x.Subject.Host
	case method:
		return x.Subject.Method
	case path:
		return x.Request.Path
	case query:
		return x.Request.Query
	default:
		return p.text
	}
}

func appendClient(b []byte, x *exchange.Exchange) []byte {
	if !x.Subject.Client.IsValid() {
		return append(b, "unknown"...)
	}
	return x.Subject.Client.Unmap().WithZone("").AppendTo(b)
}

// valid reports whether s can be a field value (RFC 9110 section 5.5): no
// control characters, no white space at its ends.
func valid(s string) bool {
	if s == "" {
		return true
	}
	if blank(s[0]) || blank(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func blank(c byte) bool { return c == ' ' || c == '\t' }
