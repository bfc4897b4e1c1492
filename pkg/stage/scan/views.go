package scan

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON is the View of text that may hold JSON: an escape of a string (RFC 8259
// section 7) stands for its rune. A backslash that begins none stands for
// itself.
func JSON(units []Unit, p []byte, last bool) ([]Unit, int) {
	for i := 0; ; {
		n := bytes.IndexByte(p[i:], '\\')
		if n < 0 {
			return units, len(p)
		}
		i += n
		r, n, whole := jsonEscape(p[i:])
		if !whole && !last {
			return units, i
		}
		if n > 1 {
			units = append(units, Unit{Pos: int64(i), Len: n, Rune: r})
		}
		i += n
	}
}

// jsonEscape reads the escape that p begins with: its rune and its length, 1
// where there is none. Not whole: more of p might tell otherwise.
func jsonEscape(p []byte) (r rune, n int, whole bool) {
	if len(p) < 2 {
		return 0, 1, false
	}
	switch p[1] {
	case '"', '\\', '/':
		return rune(p[1]), 2, true
	case 'b':
		return '\b', 2, true
	case 'f':
		return '\f', 2, true
	case 'n':
		return '\n', 2, true
	case 'r':
		return '\r', 2, true
	case 't':
		return '\t', 2, true
	case 'u':
	default:
		return 0, 1, true
	}
	r, ok, whole := hex4(p[2:])
	switch {
	case !ok:
		return 0, 1, whole
	case r < 0xD800 || r > 0xDBFF:
		if utf16.IsSurrogate(r) {
			r = utf8.RuneError
		}
		return r, 6, true
	}
	// The second half of a pair, if it follows.
	const half = `\u`
	rest := p[6:]
	if len(rest) < len(half) {
		if string(rest) == half[:len(rest)] {
			return utf8.RuneError, 6, false
		}
		return utf8.RuneError, 6, true
	}
	if string(rest[:2]) != half {
		return utf8.RuneError, 6, true
	}
	low, ok, whole := hex4(rest[2:])
	if !ok {
		return utf8.RuneError, 6, whole
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return r, 6, true
	}
	return r, 12, true
}

// hex4 reads four digits.
func hex4(p []byte) (r rune, ok, whole bool) {
	for i := range 4 {
		if i == len(p) {
			return 0, false, false
		}
		d := digit(p[i])
		if d < 0 {
			return 0, false, true
		}
		r = r<<4 | rune(d)
	}
	return r, true, true
}

// digit gives the value of a hexadecimal digit, -1 for another byte.
func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

// Percent is the View of what a URL encodes (RFC 3986 section 2.1): escapes that
// are a rune in UTF-8 together stand for it.
func Percent(units []Unit, p []byte, last bool) ([]Unit, int) {
	return percent(units, p, last, false)
}

// Form is Percent for queries and forms, where a plus is a space.
func Form(units []Unit, p []byte, last bool) ([]Unit, int) { return percent(units, p, last, true) }

func percent(units []Unit, p []byte, last, form bool) ([]Unit, int) {
	for i := 0; i < len(p); {
		switch {
		case p[i] == '+' && form:
			units = append(units, Unit{Pos: int64(i), Len: 1, Rune: ' '})
			i++
			continue
		case p[i] != '%' && p[i] < utf8.RuneSelf:
			i++
			continue
		}
		// A rune may be encoded in part: its bytes and where each ends.
		var c [utf8.UTFMax]byte
		var ends [utf8.UTFMax]int
		n, at, whole := 0, i, true
		for n < len(c) && !utf8.FullRune(c[:n]) {
			b, size, all := percentByte(p[at:])
			if size == 0 || n > 0 && b < utf8.RuneSelf {
				whole = all || n > 0 && size > 0
				break
			}
			at += size
			c[n], ends[n] = b, at
			n++
		}
		if !whole && !last {
			return units, i
		}
		if n == 0 {
			i++
			continue
		}
		r, size := utf8.DecodeRune(c[:n])
		if end := ends[size-1]; end-i > size {
			units = append(units, Unit{Pos: int64(i), Len: end - i, Rune: r})
		}
		i = ends[size-1]
	}
	return units, len(p)
}

// percentByte reads one byte, as it is or escaped, and its length, 0 where there
// is none; not all: more of p would tell.
func percentByte(p []byte) (b byte, n int, all bool) {
	switch {
	case len(p) == 0:
		return 0, 0, false
	case p[0] != '%':
		return p[0], 1, true
	}
	for i := 1; i < 3; i++ {
		if i == len(p) {
			return 0, 0, false
		}
		d := digit(p[i])
		if d < 0 {
			return 0, 0, true
		}
		b = b<<4 | byte(d)
	}
	return b, 3, true
}

// Event is the View of one event of text/event-stream: the ends of lines
// between fields that are joined (data: of several lines) stand for the newline
// that joins them, and escapes of JSON for their runes.
func Event(units []Unit, p []byte, last bool) ([]Unit, int) {
	from := 0
	data := false
	for i := 0; i <= len(p); {
		end := i + lineLength(p[i:])
		n := dataPrefix(p[i:end])
		if n > 0 && data {
			units = append(units, Unit{Pos: int64(from), Len: i + n - from, Rune: '\n'})
		}
		data = n > 0
		known := len(units)
		units, _ = JSON(units, p[i+n:end], true)
		for j := known; j < len(units); j++ {
			units[j].Pos += int64(i + n)
		}
		from = end
		if end == len(p) {
			break
		}
		i = end + 1
		if p[end] == '\r' && i < len(p) && p[i] == '\n' {
			i++
		}
	}
	return units, len(p)
}

// lineLength gives the bytes before the end of the line.
func lineLength(p []byte) int {
	if i := bytes.IndexAny(p, "\r\n"); i >= 0 {
		return i
	}
	return len(p)
}

// dataPrefix gives the length of "data:" and one space, 0 for another field.
func dataPrefix(line []byte) int {
	const name = "data:"
	if len(line) < len(name) || string(line[:len(name)]) != name {
		return 0
	}
	if len(line) > len(name) && line[len(name)] == ' ' {
		return len(name) + 1
	}
	return len(name)
}
