package audit

import (
	"bytes"
	"iter"
	"unicode/utf16"
	"unicode/utf8"
)

// A Head is what a sink may need beside the line: the first members of an event.
// The slices are good until the next call with the same Head.
type Head struct {
	Time, Event, Kind, Verdict, Reason, Rule, Workload []byte
	room                                               []byte
}

// Read takes the head from a line of Log; what the line does not have is empty.
func (h *Head) Read(line []byte) {
	*h = Head{room: h.room[:0]}
	for name, value := range members(line) {
		switch string(name) {
		case nameTime:
			h.Time = h.text(value)
		case nameEvent:
			h.Event = h.text(value)
		case nameKind:
			h.Kind = h.text(value)
		case nameVerdict:
			h.Verdict = h.text(value)
		case nameReason:
			h.Reason = h.text(value)
		case nameRule:
			h.Rule = h.text(value)
		case nameWorkload:
			for name, value := range members(value) {
				if string(name) == nameName {
					h.Workload = h.text(value)
				}
				return
			}
		case nameFlow, nameDst, nameTLS, nameHTTP, nameDNS, nameDuration:
			return // what follows is not wanted
		}
	}
}

// text gives what a JSON string says.
func (h *Head) text(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' {
		return nil
	}
	value = value[1 : len(value)-1]
	if bytes.IndexByte(value, '\\') < 0 {
		return value
	}
	start := len(h.room)
	h.room = appendUnescaped(h.room, value)
	return h.room[start:]
}

// appendUnescaped appends what is between the quotes of a JSON string.
func appendUnescaped(b, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				r = utf8.RuneError
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, s[i])
		}
	}
	return b
}

func hex4(s []byte) (r rune) {
	for _, c := range s[:min(4, len(s))] {
		v, _ := unhex(c)
		r = r<<4 | rune(v)
	}
	return r
}

// members walks the members of an object that the encoder wrote, in order: the
// name as in names.go, with quotes and colon, and the value. Its closing brace
// may be missing.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		rest := object
		for len(rest) > 1 && (rest[0] == '{' || rest[0] == ',') {
			rest = rest[1:]
			n := stringEnd(rest)
			if n == len(rest) {
				return
			}
			name := rest[:n+1] // with the colon
			rest = rest[n+1:]
			n = valueEnd(rest)
			if !yield(name, rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// stringEnd gives the length of the string with which b begins.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// valueEnd gives the length of the value with which b begins.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); {
		switch b[i] {
		case '"':
			i += stringEnd(b[i:])
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return len(b)
}

// shorten appends an event with at most limit bytes: without bodies and headers
// and, where that is not enough, without whatever member has no room. event has
// no closing brace and neither has what is appended.
func shorten(dst, event []byte, limit int) []byte {
	start := len(dst)
	dst = append(dst, '{')
	for name, value := range members(event) {
		before := len(dst)
		dst = comma(dst)
		dst = append(dst, name...)
		if string(name) == nameHTTP {
			dst = shortenHTTP(dst, value)
		} else {
			dst = append(dst, value...)
		}
		if len(dst)-start > limit {
			// The section is left where nothing else of it has room: it says why.
			dst = dst[:before]
			if string(name) == nameHTTP {
				dst = append(comma(dst), nameHTTP+"{"+nameTruncated+"true}"...)
			}
		}
	}
	return dst
}

func shortenHTTP(dst, value []byte) []byte {
	dst = append(dst, '{')
	for name, value := range members(value) {
		switch string(name) {
		case nameRequestHeaders, nameResponseHeaders, nameRequestBody, nameResponseBody, nameTruncated:
			continue
		}
		dst = append(comma(dst), name...)
		dst = append(dst, value...)
	}
	return append(comma(dst), nameTruncated+"true}"...)
}
