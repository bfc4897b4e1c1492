package cache

import (
	"strings"

	"sallyport/pkg/exchange"
)

// maxVary bounds the names of one Vary field.
const maxVary = 32

// A selection is the request fields by which one variant of a resource was
// chosen (RFC 9111 section 4.1).
type selection struct {
	names  []string
	values []string
}

// selectionOf gives the selection of a response; false where nothing but the
// request itself could match: "*", or more names than are looked at.
func selectionOf(resp *exchange.Header, req *exchange.Header) (selection, bool) {
	var s selection
	for v := range resp.Values("Vary") {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.Trim(name, " \t")
			switch {
			case name == "":
				continue
			case name == "*" || len(s.names) == maxVary:
				return selection{}, false
			}
			name = strings.ToLower(name)
			s.names = append(s.names, name)
			s.values = append(s.values, selecting(req, name))
		}
	}
	return s, true
}

// matches reports whether a request would have selected the same.
func (s *selection) matches(req *exchange.Header) bool {
	for i, name := range s.names {
		if !selects(req, name, s.values[i]) {
			return false
		}
	}
	return true
}

// selecting gives the value of a field as it is compared: the members of all
// its lines, so that neither white space around commas nor the division into
// lines matters; "" for an empty one, and one character that no value has for
// none.
func selecting(h *exchange.Header, name string) string {
	var b []byte
	found := false
	for v := range h.Values(name) {
		found = true
		for member := range strings.SplitSeq(v, ",") {
			if member = strings.Trim(member, " \t"); member != "" {
				b = append(b, member...)
				b = append(b, ',')
			}
		}
	}
	if !found {
		return "\n"
	}
	return string(b)
}

// selects is selecting(h, name) == want without making the text.
func selects(h *exchange.Header, name, want string) bool {
	found := false
	rest := want
	for v := range h.Values(name) {
		found = true
		for member := range strings.SplitSeq(v, ",") {
			if member = strings.Trim(member, " \t"); member == "" {
				continue
			}
			if !strings.HasPrefix(rest, member) || len(rest) == len(member) || rest[len(member)] != ',' {
				return false
			}
			rest = rest[len(member)+1:]
		}
	}
	if !found {
		return want == "\n"
	}
	return rest == "" && want != "\n"
}

// size is what the selection takes in memory, without the headers of its
// slices.
func (s *selection) size() int64 {
	var n int64
	for i := range s.names {
		n += int64(len(s.names[i])+len(s.values[i])) + 32
	}
	return n
}
