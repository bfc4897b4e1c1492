// Package scan finds regular expressions in text that comes in pieces: the same
// matches wherever it is cut, in one pass, and holding back no more than what
// may still become part of one.
package scan

import (
	"fmt"
	"regexp/syntax"
	"unicode/utf8"
)

// A Pattern is a compiled expression. Any number of scanners use it at once.
type Pattern struct{ forward, backward *automaton }

// Compile compiles an expression of RE2, with the syntax and the meaning of
// package regexp: the leftmost match, and of those that begin there the one
// that the expression prefers. Matches of the empty text are not found.
func Compile(expr string) (*Pattern, error) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	p := &Pattern{}
	if p.forward, err = newAutomaton(re, false); err == nil {
		p.backward, err = newAutomaton(reverse(re), true)
	}
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	return p, nil
}

// A Unit is a run of bytes that stands for one rune, such as an escape.
type Unit struct {
	// Pos is the offset of its first byte in the stream, Len their number.
	Pos  int64
	Len  int
	Rune rune
}

// A text is the part of a stream that is at hand.
type text struct {
	buf []byte
	// base is the offset of buf[0] in the stream, 0 only if nothing was dropped.
	base int64
	// units are in the order of their places.
	units []Unit
}

// unitFrom gives the place of the first unit that begins at or behind pos.
func (t *text) unitFrom(pos int64) int {
	lo, hi := 0, len(t.units)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); t.units[mid].Pos < pos {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// before gives the rune that ends at pos and where it begins, -1 at the
// beginning of the stream.
func (t *text) before(pos int64, view bool) (rune, int64) {
	if pos <= t.base {
		if t.base == 0 {
			return -1, pos
		}
		return ' ', pos
	}
	from := t.base
	if view {
		if i := t.unitFrom(pos); i > 0 {
			u := &t.units[i-1]
			end := u.Pos + int64(u.Len)
			if end >= pos {
				return u.Rune, u.Pos
			}
			from = end
		}
	}
	r, n := utf8.DecodeLastRune(t.buf[from-t.base : pos-t.base])
	return r, pos - int64(n)
}

// after gives the rune at pos, which is before the end of what is at hand, and
// its length in bytes.
func (t *text) after(pos int64, view bool) (rune, int) {
	if view {
		if i := t.unitFrom(pos); i < len(t.units) && t.units[i].Pos == pos {
			return t.units[i].Rune, t.units[i].Len
		}
	}
	return utf8.DecodeRune(t.buf[pos-t.base:])
}

// append appends what stands in [from, to), in the view with its units decoded.
func (t *text) append(dst []byte, from, to int64, view bool) []byte {
	if view {
		for i := t.unitFrom(from); i < len(t.units) && t.units[i].Pos < to; i++ {
			u := &t.units[i]
			dst = append(dst, t.buf[from-t.base:u.Pos-t.base]...)
			dst = utf8.AppendRune(dst, u.Rune)
			from = min(u.Pos+int64(u.Len), to)
		}
	}
	return append(dst, t.buf[from-t.base:to-t.base]...)
}
