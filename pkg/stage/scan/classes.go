package scan

import (
	"regexp/syntax"
	"slices"
	"unicode"
	"unicode/utf8"
)

// classes divides the runes into those that a program cannot tell apart.
type classes struct {
	ascii [utf8.RuneSelf]uint16
	// A rune from RuneSelf on belongs to ids[i], i the last place with first[i]
	// not above it.
	first []rune
	ids   []uint16
	// runes has one rune of each class.
	runes []rune
	// invalid is the class of utf8.RuneError, which bytes that are no rune are.
	invalid uint16
}

// newClasses looks at what the program's instructions tell apart, and at words
// and lines where it looks around.
func newClasses(prog *syntax.Prog, looks bool) *classes {
	cuts := []rune{0, '\n', '\n' + 1, utf8.RuneSelf}
	cut := func(lo, hi rune) { cuts = append(cuts, lo, hi+1) }
	if looks {
		cut('0', '9')
		cut('A', 'Z')
		cut('_', '_')
		cut('a', 'z')
	}
	var tests []*syntax.Inst
	seen := make(map[string]bool)
	for i := range prog.Inst {
		in := &prog.Inst[i]
		if in.Op != syntax.InstRune && in.Op != syntax.InstRune1 {
			continue
		}
		key := string(in.Rune) + string(rune(in.Arg))
		if seen[key] {
			continue
		}
		seen[key] = true
		tests = append(tests, in)
		if len(in.Rune) == 1 {
			r := in.Rune[0]
			cut(r, r)
			if syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
				for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
					cut(f, f)
				}
			}
			continue
		}
		for j := 0; j+1 < len(in.Rune); j += 2 {
			cut(in.Rune[j], in.Rune[j+1])
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	c := &classes{}
	known := make(map[string]uint16)
	sign := make([]byte, len(tests)+2)
	for _, r := range cuts {
		if r > unicode.MaxRune {
			break
		}
		clear(sign)
		for i, in := range tests {
			if in.MatchRune(r) {
				sign[i] = 1
			}
		}
		if r == '\n' {
			sign[len(tests)] = 1
		}
		if looks && syntax.IsWordChar(r) {
			sign[len(tests)+1] = 1
		}
		id, ok := known[string(sign)]
		if !ok {
			id = uint16(len(c.runes))
			known[string(sign)] = id
			c.runes = append(c.runes, r)
		}
		c.first, c.ids = append(c.first, r), append(c.ids, id)
	}
	at := 0
	for r := range rune(utf8.RuneSelf) {
		for at+1 < len(c.first) && c.first[at+1] <= r {
			at++
		}
		c.ascii[r] = c.ids[at]
	}
	c.first, c.ids = c.first[at+1:], c.ids[at+1:]
	c.invalid = uint16(c.of(utf8.RuneError))
	return c
}

// wide gives the class of the rune that p begins with, which is not ASCII, and
// its length.
func (c *classes) wide(p []byte) (class, n int) {
	// What begins no rune: the rest of others, and bytes that UTF-8 does not have.
	if b := p[0]; b < 0xC2 || b > 0xF4 {
		return int(c.invalid), 1
	}
	r, n := utf8.DecodeRune(p)
	if r == utf8.RuneError {
		return int(c.invalid), n
	}
	return c.of(r), n
}

// of gives the class of a rune.
func (c *classes) of(r rune) int {
	if r < utf8.RuneSelf {
		return int(c.ascii[r])
	}
	lo, hi := 0, len(c.first)
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) >> 1); c.first[mid] <= r {
			lo = mid
		} else {
			hi = mid
		}
	}
	return int(c.ids[lo])
}
