package convert

import (
	"strings"

	"sallyport/pkg/policy/pattern"
)

// A Shape says what a Pattern matches.
type Shape uint8

const (
	// Exact is one path.
	Exact Shape = iota
	// Prefix is whatever begins with the text, which need not end in a slash.
	Prefix
	// Subtree is the text itself and whatever follows it behind a slash.
	Subtree
	// Glob is a pattern of ours as it is written.
	Glob
)

// A Pattern is a set of paths of an origin.
type Pattern struct {
	Shape Shape
	// Text is percent-encoded where it has to be; of a Subtree it has no final
	// slash, so "" is every path.
	Text string
}

// PrefixOf gives the pattern of what begins with s, which begins with "/".
func PrefixOf(s string) Pattern {
	if s == "/" {
		return Pattern{Subtree, ""}
	}
	return Pattern{Prefix, s}
}

// SubtreeOf gives the pattern of s and all below it.
func SubtreeOf(s string) Pattern { return Pattern{Subtree, strings.TrimRight(s, "/")} }

// reserved are the characters that mean something in a pattern of ours and that
// its literal parts must encode.
var reserved = strings.NewReplacer("*", "%2A", "?", "%3F", "#", "%23", "{", "%7B", "}", "%7D", " ", "%20")

// EncodePath encodes what a decoded path may not hold as such in a pattern.
func EncodePath(s string) string { return reserved.Replace(strings.ReplaceAll(s, "%", "%25")) }

// String writes the pattern as configuration has it.
func (p Pattern) String() string {
	text := p.Text
	if p.Shape != Glob {
		text = reserved.Replace(text)
	}
	switch p.Shape {
	case Subtree:
		return text + "/**"
	case Prefix:
		if strings.HasSuffix(text, "/") {
			// "/a/**" would match "/a" too.
			return text + "*/**"
		}
		return text + "**"
	default:
		return text
	}
}

// Err says why the configuration would refuse the pattern.
func (p Pattern) Err() error {
	_, err := pattern.ParsePath(p.String())
	return err
}

// head is what everything that p matches begins with.
func (p Pattern) head() string {
	if p.Shape != Glob {
		return p.Text
	}
	head, _, _ := strings.Cut(p.Text, "*")
	return head
}

// plain gives a glob that says no more than another shape in that shape.
func (p Pattern) plain() Pattern {
	if p.Shape != Glob {
		return p
	}
	text, shape := p.Text, Exact
	if front, ok := strings.CutSuffix(text, "/*/**"); ok {
		text, shape = front+"/", Prefix
	} else if front, ok := strings.CutSuffix(text, "/**"); ok {
		text, shape = front, Subtree
	} else if front, ok := strings.CutSuffix(text, "**"); ok {
		text, shape = front, Prefix
	}
	if strings.Contains(text, "*") {
		return p
	}
	return Pattern{shape, text}
}

// Covers reports whether p matches all that q does. It may miss what only
// comparing globs would show.
func (p Pattern) Covers(q Pattern) bool {
	p, q = p.plain(), q.plain()
	switch p.Shape {
	case Prefix:
		return strings.HasPrefix(q.head(), p.Text)
	case Subtree:
		if p.Text == "" {
			return true
		}
		if q.Shape != Prefix && q.Shape != Glob && q.Text == p.Text {
			return true
		}
		return strings.HasPrefix(q.head(), p.Text+"/")
	case Glob:
		return q.Shape == Glob && p.Text == q.Text
	default:
		return q.Shape == Exact && p.Text == q.Text
	}
}
