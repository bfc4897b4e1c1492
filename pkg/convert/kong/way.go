package kong

import (
	"cmp"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// A way is a route with one of its paths.
type way struct {
	route *route
	// path is "" where the route names none. Of a regular expression it is
	// without its "~".
	path  string
	regex bool
}

// oldPlain is what a path before format 3.0 consists of unless it is a regular
// expression.
var oldPlain = regexp.MustCompile(`^[a-zA-Z0-9._~/%-]*$`)

// ways gives each route's paths in the order in which Kong's router looks at
// them: routes that ask for more kinds of things first, then for more headers,
// then regular expressions by their priority, then longer paths.
func (c *conversion) ways() []*way {
	var all []*way
	for _, r := range c.routes {
		if len(r.paths) == 0 {
			all = append(all, &way{route: r})
		}
		for _, p := range r.paths {
			w := &way{route: r, path: p}
			if c.modern {
				w.path, w.regex = strings.CutPrefix(p, "~")
			} else {
				w.regex = !oldPlain.MatchString(p)
			}
			all = append(all, w)
		}
	}
	slices.SortStableFunc(all, func(a, b *way) int {
		return cmp.Or(
			cmp.Compare(b.route.kinds(), a.route.kinds()),
			cmp.Compare(b.route.plainHosts(), a.route.plainHosts()),
			cmp.Compare(len(b.route.headers), len(a.route.headers)),
			compareBool(b.regex, a.regex),
			cmp.Compare(a.regexPriority(b), b.regexPriority(a)),
			cmp.Compare(b.length(), a.length()),
		)
	})
	return all
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// regexPriority is compared among regular expressions only, higher first.
func (w *way) regexPriority(o *way) int {
	if !w.regex || !o.regex {
		return 0
	}
	return -w.route.priority
}

func (w *way) length() int {
	if w.regex {
		return 0
	}
	return len(w.path)
}

// kinds counts the kinds of things that a route asks for.
func (r *route) kinds() (n int) {
	for _, asked := range []bool{len(r.methods) > 0, len(r.hosts) > 0, len(r.paths) > 0, len(r.headers) > 0, len(r.snis) > 0} {
		if asked {
			n++
		}
	}
	return n
}

// plainHosts is 1 where no host has a wildcard.
func (r *route) plainHosts() int {
	if len(r.hosts) > 0 && !slices.ContainsFunc(r.hosts, func(h string) bool { return strings.Contains(h, "*") }) {
		return 1
	}
	return 0
}

// expression is the regular expression as Kong compares it: from the beginning.
func (w *way) expression() string { return "^(?:" + w.path + ")" }

// rank keeps the order of Kong's router: all ways that it looks at in order of
// their paths' length alone have one rank, each regular expression its own.
func (w *way) rank(all []*way) int {
	rank := 0
	for i, o := range all {
		if i > 0 && !o.alike(all[i-1]) {
			rank++
		}
		if o == w {
			break
		}
	}
	return rank
}

// alike reports whether only the length of paths tells the order of two ways.
func (w *way) alike(o *way) bool {
	return !w.regex && !o.regex && w.route.kinds() == o.route.kinds() && w.route.plainHosts() == o.route.plainHosts() && len(w.route.headers) == len(o.route.headers)
}

// show writes what a caller of Kong asked for.
func (w *way) show() string {
	var parts []string
	if len(w.route.methods) > 0 {
		parts = append(parts, strings.Join(w.route.methods, "|"))
	}
	if len(w.route.hosts) > 0 {
		parts = append(parts, strings.Join(w.route.hosts, "|"))
	}
	if len(w.route.snis) > 0 {
		parts = append(parts, "SNI "+strings.Join(w.route.snis, "|"))
	}
	switch {
	case w.regex:
		parts = append(parts, "~"+w.path)
	case w.path != "":
		parts = append(parts, w.path)
	default:
		parts = append(parts, "any path")
	}
	if !w.route.strip {
		parts = append(parts, "(strip_path: false)")
	}
	return strings.Join(parts, " ")
}

// upstreamPaths gives what Kong sent upstream, with a condition where patterns
// alone cannot say it; why tells what cannot be said at all.
func (w *way) upstreamPaths(s *service) (all []convert.Pattern, when, why string) {
	base, slashed := strings.CutSuffix(s.path, "/")
	base = strings.TrimRight(base, "/")
	switch {
	case w.regex && w.route.strip:
		all, why = w.stripped(base)
		return all, "", why
	case w.regex:
		globs, ok := convert.ExactGlobs(w.expression(), false)
		if !ok {
			if when, ok = convert.AllowWhen(w.expression(), false, convert.Path("", base)); !ok {
				return nil, "", "a regular expression that only PCRE knows: write the paths by hand (* within a segment, ** across)"
			}
			globs = convert.WiderGlobs(w.expression(), false)
		}
		for _, g := range globs {
			all = append(all, below(base, g))
		}
		return all, when, ""
	case w.path == "" || w.path == "/" && !w.route.strip:
		if slashed && base != "" {
			return []convert.Pattern{convert.PrefixOf(base + "/")}, "", ""
		}
		return []convert.Pattern{convert.SubtreeOf(base)}, "", ""
	case !w.route.strip:
		return []convert.Pattern{convert.PrefixOf(base + w.path)}, "", ""
	case base == "":
		return []convert.Pattern{convert.SubtreeOf("")}, "", ""
	case w.route.handling == "v1" && !slashed && !strings.HasSuffix(w.path, "/"):
		// What follows the path is appended as it is.
		return []convert.Pattern{convert.PrefixOf(base)}, "", ""
	case w.path == "/" && !slashed, w.path != "/" && !strings.HasSuffix(w.path, "/"):
		return []convert.Pattern{convert.SubtreeOf(base)}, "", ""
	default:
		return []convert.Pattern{convert.PrefixOf(base + "/")}, "", ""
	}
}

// stripped gives the paths of a regular expression that is taken off.
func (w *way) stripped(base string) ([]convert.Pattern, string) {
	re, err := syntax.Parse(w.expression(), syntax.Perl&^syntax.OneLine)
	if err != nil {
		return nil, "a regular expression that only PCRE knows: write the paths by hand"
	}
	switch end := last(re); {
	case end == nil:
		return nil, "a regular expression of which it cannot be told what is left when it is taken off: write the paths by hand"
	case end.Op == syntax.OpEndText || end.Op == syntax.OpEndLine:
		if base == "" {
			return []convert.Pattern{{Shape: convert.Exact, Text: "/"}}, ""
		}
		return []convert.Pattern{{Shape: convert.Exact, Text: base}}, ""
	case end.Op == syntax.OpLiteral && w.route.handling != "v1" && oneWay(re):
		return []convert.Pattern{convert.SubtreeOf(base)}, ""
	default:
		return nil, "a regular expression of which it cannot be told what is left when it is taken off: write the paths by hand"
	}
}

// last gives the last part of a concatenation.
func last(re *syntax.Regexp) *syntax.Regexp {
	for {
		switch re.Op {
		case syntax.OpConcat:
			re = re.Sub[len(re.Sub)-1]
		case syntax.OpCapture:
			re = re.Sub[0]
		case syntax.OpLiteral, syntax.OpEndText, syntax.OpEndLine:
			return re
		default:
			return nil
		}
	}
}

// oneWay reports whether the expression matches a path in one way only, whatever
// follows: each repeated character differs from what comes next and is no slash.
func oneWay(re *syntax.Regexp) bool {
	if re.Op == syntax.OpCapture {
		return oneWay(re.Sub[0])
	}
	if re.Op != syntax.OpConcat {
		return re.Op == syntax.OpLiteral
	}
	parts := flat(re)
	for i, p := range parts {
		switch p.Op {
		case syntax.OpLiteral, syntax.OpBeginText, syntax.OpBeginLine, syntax.OpCharClass:
		case syntax.OpStar, syntax.OpPlus:
			class := p.Sub[0]
			if class.Op != syntax.OpCharClass || i+1 == len(parts) || parts[i+1].Op != syntax.OpLiteral || has(class, '/') || has(class, parts[i+1].Rune[0]) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// flat gives the parts of a concatenation without the brackets around them.
func flat(re *syntax.Regexp) (all []*syntax.Regexp) {
	switch re.Op {
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			all = append(all, flat(sub)...)
		}
		return all
	case syntax.OpCapture:
		return flat(re.Sub[0])
	default:
		return []*syntax.Regexp{re}
	}
}

func has(class *syntax.Regexp, c rune) bool {
	for i := 0; i+1 < len(class.Rune); i += 2 {
		if class.Rune[i] <= c && c <= class.Rune[i+1] {
			return true
		}
	}
	return false
}

// below puts a pattern below a base path.
func below(base string, p convert.Pattern) convert.Pattern {
	p.Text = base + p.Text
	return p
}
