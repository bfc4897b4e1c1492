package pattern

import (
	"errors"
	"fmt"
	"strings"
)

// MaxPath bounds the length of a path pattern in bytes.
const MaxPath = 2048

// A Path is a compiled path pattern. * is any run of characters within a
// segment, ** one across segments; "/**" at the end also matches the directory
// itself and "/**/" also a single slash. It is compared with a RequestPath in
// one form for both, so percent-encoding makes no difference, but for %2F.
type Path struct {
	text   string
	tokens []pathToken
	// writes are the features that the pattern itself writes: such a pattern is
	// compared with them as they stand.
	writes feature
	// trimmed is set where the pattern ends in a slash: the same without it.
	trimmed []pathToken
}

type pathKind uint8

const (
	pathLiteral pathKind = iota
	// pathRun is *: no slash, neither written nor encoded.
	pathRun
	// pathDeep is **: anything.
	pathDeep
	// pathSegments is what may stand after the first slash of "/**/": nothing,
	// or whole segments each with its slash.
	pathSegments
	// pathTail is "/**" at the end: nothing, or a slash and anything.
	pathTail
)

type pathToken struct {
	kind    pathKind
	literal string
}

// ParsePath compiles a path pattern; the error says what is wrong with it.
func ParsePath(s string) (Path, error) {
	switch {
	case s == "":
		return Path{}, errors.New("is empty")
	case len(s) > MaxPath:
		return Path{}, fmt.Errorf("is longer than %d bytes", MaxPath)
	case s[0] != '/' && s != "**":
		return Path{}, errors.New(`must begin with "/"`)
	case strings.Contains(s, "***"):
		return Path{}, errors.New(`has "***"`)
	}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		return Path{}, fmt.Errorf("has %q: a query or fragment is no part of the path", s[i:i+1])
	}
	if i := strings.IndexAny(s, "{}"); i >= 0 {
		return Path{}, fmt.Errorf(`has %q: a variable part is written "*"`, s[i:i+1])
	}
	p := Path{text: s}
	// Dots beside a star may become anything; only whole dot segments are wrong.
	n := normalise(strings.ReplaceAll(s, "*", "%2A"))
	if n.ambiguous != "" && s != "**" {
		return Path{}, fmt.Errorf("has %s, which is refused before it is compared", n.ambiguous)
	}
	p.writes = featuresOf(n.key)
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '*')
		if i < 0 {
			p.literal(rest)
			break
		}
		p.literal(rest[:i])
		stars := 1
		if strings.HasPrefix(rest[i:], "**") {
			stars = 2
		}
		p.wild(stars, rest[i+stars:] == "", strings.HasPrefix(rest[i+stars:], "/"))
		rest = rest[i+stars:]
		if last := &p.tokens[len(p.tokens)-1]; last.kind == pathSegments {
			// Its own slash is part of what it matches.
			rest = rest[1:]
		}
	}
	if last := len(p.tokens) - 1; p.tokens[last].kind == pathLiteral && len(s) > 1 {
		if short, ok := strings.CutSuffix(p.tokens[last].literal, "/"); ok {
			p.trimmed = append(p.trimmed, p.tokens[:last]...)
			if short != "" {
				p.trimmed = append(p.trimmed, pathToken{literal: short})
			}
		}
	}
	return p, nil
}

// literal adds a part of the pattern that has no star, in the form in which
// paths are compared.
func (p *Path) literal(s string) {
	if s == "" {
		return
	}
	r, _ := encode(s)
	key := r.key
	if n := len(p.tokens); n > 0 && p.tokens[n-1].kind == pathLiteral {
		p.tokens[n-1].literal += key
		return
	}
	p.tokens = append(p.tokens, pathToken{literal: key})
}

// wild adds one or two stars; end and slash tell what follows them.
func (p *Path) wild(stars int, end, slash bool) {
	if stars == 1 {
		p.tokens = append(p.tokens, pathToken{kind: pathRun})
		return
	}
	n := len(p.tokens)
	if n == 0 || p.tokens[n-1].kind != pathLiteral || !strings.HasSuffix(p.tokens[n-1].literal, "/") {
		p.tokens = append(p.tokens, pathToken{kind: pathDeep})
		return
	}
	switch {
	case end:
		short := strings.TrimSuffix(p.tokens[n-1].literal, "/")
		if short == "" {
			p.tokens = p.tokens[:n-1]
		} else {
			p.tokens[n-1].literal = short
		}
		p.tokens = append(p.tokens, pathToken{kind: pathTail})
	case slash:
		p.tokens = append(p.tokens, pathToken{kind: pathSegments})
	default:
		p.tokens = append(p.tokens, pathToken{kind: pathDeep})
	}
}

// String gives the text that was parsed.
func (p Path) String() string { return p.text }

// Equal reports whether both were parsed from the same text.
func (p Path) Equal(o Path) bool { return p.text == o.text }

// Prefix gives what the key of every plain path begins with that the pattern
// matches, final slash or not.
func (p *Path) Prefix() string {
	tokens := p.tokens
	if p.trimmed != nil {
		tokens = p.trimmed
	}
	if len(tokens) == 0 || tokens[0].kind != pathLiteral {
		return ""
	}
	return tokens[0].literal
}

// MatchesAll reports whether the pattern matches in every way in which the path
// may be read: what an allow rule asks. A path with %2F matches only a pattern
// that writes it.
func (p *Path) MatchesAll(r *RequestPath) bool {
	if r.features&encodedSlash&^p.writes != 0 || !r.matches(p.tokens, r.key, false) {
		return false
	}
	for i := range r.readings {
		if r.readings[i].features&p.writes == 0 && !r.matches(p.tokens, r.readings[i].key, false) {
			return false
		}
	}
	return true
}

// MatchesAny reports whether the pattern matches in some way in which the path
// may be read, with or without a final slash: what a deny rule asks. A path
// with %2F matches every pattern that does not write it.
func (p *Path) MatchesAny(r *RequestPath) bool {
	if r.features&encodedSlash&^p.writes != 0 || p.matchesSlashed(r, r.key) {
		return true
	}
	for i := range r.readings {
		if p.matchesSlashed(r, r.readings[i].key) {
			return true
		}
	}
	return false
}

// matchesSlashed compares with and without a final slash on either side: most
// servers answer both alike.
func (p *Path) matchesSlashed(r *RequestPath, key string) bool {
	if r.matches(p.tokens, key, true) {
		return true
	}
	if len(key) > 1 && key[len(key)-1] == '/' && r.matches(p.tokens, key[:len(key)-1], true) {
		return true
	}
	return p.trimmed != nil && r.matches(p.trimmed, key, true)
}

// matches compares s with the tokens. The work of all comparisons of one path
// is bounded; beyond that the answer is lost, which is given for it.
//
// After ** the earliest match of what follows is as good as any, since a later
// ** can take up what is left; the same holds for * within one segment. So one
// place of each to go back to is enough.
func (r *RequestPath) matches(tokens []pathToken, s string, lost bool) bool {
	at, pos := 0, 0
	runAt, runPos := -1, 0
	deepAt, deepPos := -1, 0
	for {
		if at == len(tokens) {
			if pos == len(s) {
				return true
			}
		} else {
			switch t := &tokens[at]; t.kind {
			case pathLiteral:
				if strings.HasPrefix(s[pos:], t.literal) {
					pos += len(t.literal)
					at++
					continue
				}
			case pathTail:
				if pos == len(s) || s[pos] == '/' {
					return true
				}
			case pathRun:
				at++
				runAt, runPos = at, pos
				continue
			default:
				at++
				if at == len(tokens) && t.kind == pathDeep {
					return true
				}
				deepAt, deepPos, runAt = at, pos, -1
				continue
			}
		}
		if r.steps++; r.steps > maxSteps {
			return lost
		}
		if runAt >= 0 && runPos < len(s) && s[runPos] != '/' && !strings.HasPrefix(s[runPos:], "%2F") {
			runPos++
			at, pos = runAt, runPos
			continue
		}
		if deepAt < 0 || deepPos >= len(s) {
			return false
		}
		runAt = -1
		if tokens[deepAt-1].kind == pathDeep {
			deepPos++
		} else if i := strings.IndexByte(s[deepPos:], '/'); i >= 0 {
			deepPos += i + 1
		} else {
			return false
		}
		at, pos = deepAt, deepPos
	}
}

// maxSteps bounds how often comparing one path with all patterns of all rules
// may go back, about ten milliseconds: a path made to be slow is not compared
// further.
const maxSteps = 1 << 21
