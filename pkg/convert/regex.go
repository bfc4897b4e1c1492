package convert

import (
	"regexp/syntax"
	"slices"
	"strings"
)

// maxAlternatives bounds what one regular expression may become.
const maxAlternatives = 64

// A part of a translated expression: text, or a wildcard.
type part struct {
	text string
	// wild is "*" for characters of one segment, "**" for any.
	wild string
}

type translation struct {
	parts      []part
	begin, end bool
}

// A translator turns regular expressions into patterns.
type translator struct {
	// fold is set where letters match in either case.
	fold bool
	// wider gives patterns that match at least what the expression does; else
	// exactly that, or nothing.
	wider bool
	// failed is set by what cannot be expressed.
	failed bool
}

// ExactGlobs gives the patterns that together match exactly what the regular
// expression finds in a decoded path; false where patterns cannot say it.
func ExactGlobs(expression string, fold bool) ([]Pattern, bool) {
	t := &translator{fold: fold}
	all := t.translate(expression)
	if t.failed || len(all) == 0 {
		return nil, false
	}
	return all, true
}

// WiderGlobs gives patterns that together match at least what the regular
// expression finds: what must be refused in its name.
func WiderGlobs(expression string, fold bool) []Pattern {
	t := &translator{fold: fold, wider: true}
	all := t.translate(expression)
	if t.failed || len(all) == 0 {
		return []Pattern{{Subtree, ""}}
	}
	return all
}

func (t *translator) translate(expression string) (all []Pattern) {
	flags := syntax.Perl &^ syntax.OneLine
	if t.fold {
		flags |= syntax.FoldCase
	}
	re, err := syntax.Parse(expression, flags)
	if err != nil {
		t.failed = true
		return nil
	}
	for _, one := range t.walk(re) {
		p, ok := t.pattern(one)
		if !ok {
			t.failed = true
			return nil
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// pattern joins the parts of one alternative.
func (t *translator) pattern(one translation) (Pattern, bool) {
	parts := one.parts
	if !one.begin {
		parts = append([]part{{wild: "**"}}, parts...)
	}
	if !one.end {
		parts = append(parts, part{wild: "**"})
	}
	parts = joinParts(parts)
	if len(parts) == 1 && parts[0].wild == "**" {
		return Pattern{Subtree, ""}, true
	}
	if len(parts) == 1 && parts[0].wild == "" {
		p := Pattern{Exact, EncodePath(parts[0].text)}
		return p, p.Err() == nil
	}
	if len(parts) == 2 && parts[0].wild == "" && parts[1].wild == "**" {
		p := PrefixOf(EncodePath(parts[0].text))
		return p, p.Err() == nil
	}
	var b strings.Builder
	for i, p := range parts {
		switch {
		case p.wild == "":
			b.WriteString(EncodePath(p.text))
		case i == 0 && p.wild == "**":
			// Every path begins with a slash; "/**/" also is a single one.
			b.WriteString("/**")
		case i == 0:
			return Pattern{}, false
		case p.wild == "**" && strings.HasSuffix(b.String(), "/") && (i == len(parts)-1 || strings.HasPrefix(parts[i+1].text, "/")):
			// "/a/**" would match "/a", and "/a/**/b" "/a/b".
			b.WriteString("*/**")
		default:
			b.WriteString(p.wild)
		}
	}
	text := b.String()
	if !strings.HasPrefix(text, "/") {
		return Pattern{}, false
	}
	p := Pattern{Glob, text}
	return p, p.Err() == nil
}

// joinParts makes neighbours one.
func joinParts(parts []part) (all []part) {
	for _, p := range parts {
		n := len(all)
		switch {
		case p == part{}:
		case n > 0 && p.wild == "" && all[n-1].wild == "":
			all[n-1].text += p.text
		case n > 0 && p.wild != "" && all[n-1].wild != "":
			if p.wild == "**" {
				all[n-1].wild = "**"
			}
		default:
			all = append(all, p)
		}
	}
	return all
}

func literal(s string) []translation { return []translation{{parts: []part{{text: s}}}} }

func wild(s string) []translation { return []translation{{parts: []part{{wild: s}}}} }

// fail gives what stands for something that patterns do not know.
func (t *translator) fail(wider string) []translation {
	if !t.wider {
		t.failed = true
		return nil
	}
	return wild(wider)
}

func (t *translator) walk(re *syntax.Regexp) []translation {
	if t.failed {
		return nil
	}
	switch re.Op {
	case syntax.OpEmptyMatch:
		return literal("")
	case syntax.OpLiteral:
		return t.literal(re)
	case syntax.OpBeginText, syntax.OpBeginLine:
		return []translation{{begin: true}}
	case syntax.OpEndText, syntax.OpEndLine:
		return []translation{{end: true}}
	case syntax.OpCapture:
		return t.walk(re.Sub[0])
	case syntax.OpConcat:
		return t.concat(re.Sub)
	case syntax.OpAlternate:
		var all []translation
		for _, sub := range re.Sub {
			all = append(all, t.walk(sub)...)
		}
		return t.bounded(all)
	case syntax.OpQuest:
		return t.bounded(append(literal(""), t.walk(re.Sub[0])...))
	case syntax.OpCharClass:
		return t.class(re)
	case syntax.OpStar:
		switch of := segmentOf(re.Sub[0]); of {
		case "any":
			return wild("**")
		case "segment":
			return wild("*")
		}
		return t.fail("**")
	case syntax.OpPlus, syntax.OpRepeat, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		if re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat {
			if s := re.Sub[0]; s.Op == syntax.OpCharClass && !hasRune(s, '/') {
				return t.fail("*")
			}
		}
		return t.fail("**")
	default:
		return t.fail("**")
	}
}

// literal gives the text; where letters match in either case nothing exact.
func (t *translator) literal(re *syntax.Regexp) []translation {
	if re.Flags&syntax.FoldCase == 0 {
		return literal(string(re.Rune))
	}
	var parts []part
	for _, c := range re.Rune {
		if ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || c > 0x7f {
			if !t.wider {
				t.failed = true
				return nil
			}
			parts = append(parts, part{wild: "*"})
		} else {
			parts = append(parts, part{text: string(c)})
		}
	}
	return []translation{{parts: joinParts(parts)}}
}

// class gives an alternative for each character of a small class.
func (t *translator) class(re *syntax.Regexp) (all []translation) {
	n := 0
	for i := 0; i+1 < len(re.Rune); i += 2 {
		if n += int(re.Rune[i+1]-re.Rune[i]) + 1; n > 10 || n < 0 {
			if hasRune(re, '/') {
				return t.fail("**")
			}
			return t.fail("*")
		}
		for c := re.Rune[i]; c <= re.Rune[i+1]; c++ {
			all = append(all, literal(string(c))...)
		}
	}
	return all
}

func (t *translator) concat(subs []*syntax.Regexp) []translation {
	all := []translation{{}}
	for i, sub := range subs {
		var next []translation
		for _, right := range t.walk(sub) {
			for _, left := range all {
				// Anchors inside say what no path can be.
				if right.begin && (i > 0 && len(left.parts) > 0) || left.end && len(right.parts) > 0 {
					return t.fail("**")
				}
				next = append(next, translation{
					parts: append(append([]part{}, left.parts...), right.parts...),
					begin: left.begin || right.begin, end: left.end || right.end,
				})
			}
		}
		if all = t.bounded(next); t.failed {
			return nil
		}
	}
	return all
}

func (t *translator) bounded(all []translation) []translation {
	if len(all) > maxAlternatives {
		return t.fail("**")
	}
	return all
}

// segmentOf tells what a repeated expression takes: any character, any but a
// slash, or something else.
func segmentOf(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "any"
	case syntax.OpCharClass:
		// [^/] as the parser writes it.
		if len(re.Rune) == 4 && re.Rune[0] == 0 && re.Rune[1] == '/'-1 && re.Rune[2] == '/'+1 && re.Rune[3] > 0xffff {
			return "segment"
		}
	}
	return ""
}

func hasRune(re *syntax.Regexp, c rune) bool {
	for i := 0; i+1 < len(re.Rune); i += 2 {
		if re.Rune[i] <= c && c <= re.Rune[i+1] {
			return true
		}
	}
	return false
}
