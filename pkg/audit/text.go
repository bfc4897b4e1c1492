package audit

import (
	"time"
	"unicode/utf8"
)

// What is cut, and where: a workload chooses these texts, so that none of them
// may fill the queue. A cut text ends with "…".
const (
	// MaxText bounds path and query, in bytes.
	MaxText = 8 << 10
	// MaxHeaders bounds the headers recorded for each direction.
	MaxHeaders = 128
	// MaxBody is the most that a rule may have recorded of each body.
	MaxBody = 512 << 10
	// MaxLine bounds a line on disk with everything escaped at its worst.
	MaxLine = 3 << 20

	maxBodyText   = 1 << 20
	maxMessage    = 4 << 10
	maxPathname   = 4 << 10
	maxName       = 1 << 10
	maxAnswers    = 64
	maxHeaderText = 16 << 10
	cut           = "…"
)

const hexDigits = "0123456789abcdef"

// plain says which bytes stand for themselves inside a JSON string.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := byte(0x20); c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendText appends s, cut to limit bytes, escaped for the inside of a JSON
// string (RFC 8259 §7). Bytes that are not UTF-8 become U+FFFD. Beside what JSON
// demands, DEL, the C1 controls, line separators and direction overrides are
// escaped too: an audit line must not be able to steer the terminal on which
// somebody reads it.
func appendText(b []byte, s string, limit int) []byte {
	long := len(s) > limit
	if long {
		s = wholeRunes(s[:limit])
	}
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		invalid := r == utf8.RuneError && size == 1
		if invalid || steersTerminal(r) {
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			start = i + size
		}
		i += size
	}
	b = append(b, s[start:]...)
	if long {
		b = append(b, cut...)
	}
	return b
}

// steersTerminal: C1 controls, line and paragraph separator, bidirectional
// embeddings, overrides and isolates.
func steersTerminal(r rune) bool {
	return r <= 0x9f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// wholeRunes takes an incomplete last character off a text that was cut.
func wholeRunes(s string) string {
	for back := 1; back < utf8.UTFMax && back <= len(s); back++ {
		c := s[len(s)-back]
		if c < utf8.RuneSelf {
			return s
		}
		if utf8.RuneStart(c) {
			if !utf8.FullRuneInString(s[len(s)-back:]) {
				return s[:len(s)-back]
			}
			return s
		}
	}
	return s
}

// appendTime appends t in UTC as RFC 3339 with all nine digits of the
// nanoseconds, so that lines sort as text.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4)
	b = append(b, '-')
	b = appendDigits(b, int(month), 2)
	b = append(b, '-')
	b = appendDigits(b, day, 2)
	b = append(b, 'T')
	b = appendDigits(b, hour, 2)
	b = append(b, ':')
	b = appendDigits(b, minute, 2)
	b = append(b, ':')
	b = appendDigits(b, second, 2)
	b = append(b, '.')
	b = appendDigits(b, t.Nanosecond(), 9)
	return append(b, 'Z')
}

// appendDigits appends the last width decimal digits of a value that is not
// negative.
func appendDigits(b []byte, v, width int) []byte {
	var digits [9]byte
	for i := width - 1; i >= 0; i-- {
		digits[i] = byte('0' + v%10)
		v /= 10
	}
	return append(b, digits[:width]...)
}

// appendSeconds appends d as a decimal number of seconds with as many digits as
// it needs, at most nine. A negative duration (a clock that stepped) is 0.
func appendSeconds(b []byte, d time.Duration) []byte {
	if d < 0 {
		d = 0
	}
	b = appendUint(b, uint64(d/time.Second))
	rest := int(d % time.Second)
	if rest == 0 {
		return b
	}
	b = append(b, '.')
	b = appendDigits(b, rest, 9)
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}
