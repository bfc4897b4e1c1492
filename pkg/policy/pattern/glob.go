// Package pattern holds the text forms that configuration and policy share:
// globs, host names and paths. It knows how each is written, brought into one
// form, and compared; it knows nothing of rules.
package pattern

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// MaxGlob bounds the length of a glob in bytes, so that a comparison is bounded
// by the length of what it is compared with.
const MaxGlob = 1024

// A Glob matches whole strings: * is any run of characters, ? any one
// character, [a-z] one of a set, [!a-z] one outside it, \ takes the next
// character as it is.
type Glob struct {
	text string
	// exact holds where the glob has no special character: text without
	// escapes. Most globs are plain names.
	exact   string
	isExact bool
	tokens  []globToken
}

type globKind uint8

const (
	globLiteral globKind = iota
	globOne
	globSet
	globRun
)

type globToken struct {
	kind    globKind
	literal string
	set     runeSet
}

// A runeSet is what stands between [ and ].
type runeSet struct {
	negated bool
	ranges  []runeRange
}

type runeRange struct{ first, last rune }

func (s *runeSet) contains(r rune) bool {
	for _, g := range s.ranges {
		if g.first <= r && r <= g.last {
			return !s.negated
		}
	}
	return s.negated
}

// ParseGlob compiles s; the error says what is wrong with it.
func ParseGlob(s string) (Glob, error) {
	switch {
	case s == "":
		return Glob{}, errors.New("is empty")
	case len(s) > MaxGlob:
		return Glob{}, errors.New("is longer than 1024 bytes")
	case !utf8.ValidString(s):
		return Glob{}, errors.New("is not UTF-8")
	}
	g := Glob{text: s}
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			g.tokens = append(g.tokens, globToken{kind: globLiteral, literal: literal.String()})
			literal.Reset()
		}
	}
	for rest := s; rest != ""; {
		switch rest[0] {
		case '*':
			flush()
			if n := len(g.tokens); n == 0 || g.tokens[n-1].kind != globRun {
				g.tokens = append(g.tokens, globToken{kind: globRun})
			}
			rest = rest[1:]
		case '?':
			flush()
			g.tokens = append(g.tokens, globToken{kind: globOne})
			rest = rest[1:]
		case '[':
			flush()
			set, tail, err := parseSet(rest[1:])
			if err != nil {
				return Glob{}, err
			}
			g.tokens = append(g.tokens, globToken{kind: globSet, set: set})
			rest = tail
		case '\\':
			_, size := utf8.DecodeRuneInString(rest[1:])
			if size == 0 {
				return Glob{}, errors.New(`ends in "\", which must be followed by a character`)
			}
			literal.WriteString(rest[1 : 1+size])
			rest = rest[1+size:]
		default:
			literal.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	flush()
	if len(g.tokens) == 1 && g.tokens[0].kind == globLiteral {
		g.exact, g.isExact, g.tokens = g.tokens[0].literal, true, nil
	}
	return g, nil
}

// parseSet reads a set after its opening bracket and gives what follows it. A
// "]" that comes first stands for itself, as in fnmatch(3).
func parseSet(s string) (runeSet, string, error) {
	var set runeSet
	if s != "" && (s[0] == '!' || s[0] == '^') {
		set.negated = true
		s = s[1:]
	}
	next := func() (rune, bool) {
		if s != "" && s[0] == '\\' {
			s = s[1:]
		}
		r, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		return r, size > 0
	}
	for first := true; s != "" && (first || s[0] != ']'); first = false {
		low, ok := next()
		if !ok {
			break
		}
		high := low
		if len(s) > 1 && s[0] == '-' && s[1] != ']' {
			s = s[1:]
			if high, ok = next(); !ok {
				break
			}
			if high < low {
				return set, "", errors.New("has a set whose range runs backwards")
			}
		}
		set.ranges = append(set.ranges, runeRange{low, high})
	}
	if s == "" {
		return set, "", errors.New(`has a "[" without its "]"`)
	}
	return set, s[1:], nil
}

// String gives the text that was parsed.
func (g Glob) String() string { return g.text }

// Equal reports whether both were parsed from the same text.
func (g Glob) Equal(o Glob) bool { return g.text == o.text }

// Exact gives the only string that g matches, if there is only one.
func (g *Glob) Exact() (string, bool) { return g.exact, g.isExact }

// Match reports whether g matches the whole of s. It does not allocate. The
// zero Glob matches nothing.
func (g *Glob) Match(s string) bool {
	if g.isExact {
		return s == g.exact
	}
	if len(g.tokens) == 0 {
		return false
	}
	// After a run the earliest match of what follows is as good as any: a later
	// run can take up whatever is left. So one place to go back to is enough.
	at, pos := 0, 0
	backAt, backPos := -1, 0
	for {
		if at == len(g.tokens) {
			if pos == len(s) {
				return true
			}
		} else if t := &g.tokens[at]; t.kind == globRun {
			at++
			if at == len(g.tokens) {
				return true
			}
			backAt, backPos = at, pos
			continue
		} else if n := t.consume(s[pos:]); n > 0 {
			at++
			pos += n
			continue
		}
		if backAt < 0 || backPos >= len(s) {
			return false
		}
		_, size := utf8.DecodeRuneInString(s[backPos:])
		backPos += size
		at, pos = backAt, backPos
	}
}

// consume gives how many bytes of s the token takes; 0 if it does not match.
func (t *globToken) consume(s string) int {
	if t.kind == globLiteral {
		if strings.HasPrefix(s, t.literal) {
			return len(t.literal)
		}
		return 0
	}
	r, size := utf8.DecodeRuneInString(s)
	if t.kind == globSet && !t.set.contains(r) {
		return 0
	}
	return size
}
