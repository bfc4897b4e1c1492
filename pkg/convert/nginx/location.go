package nginx

import (
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// A modifier says how a location is compared.
type modifier uint8

const (
	prefix modifier = iota
	// stop is ^~: a prefix after which no regular expression is looked at.
	stop
	exact
	regex
	// named is only reached from inside.
	named
)

// A location is one of a server, nested ones laid flat.
type location struct {
	*scope
	modifier modifier
	// fold is set for ~*.
	fold bool
	uri  string
	// nested is set for a regular expression inside another location, which
	// holds only there.
	nested bool
	// calm is set inside of ^~, where the server's regular expressions are not
	// looked at.
	calm bool
}

// locations gives those of a server in order of the file.
func locations(server *scope) (all []*location) {
	var walk func(s *scope, inside, calm bool)
	walk = func(s *scope, inside, calm bool) {
		for _, d := range s.children("location") {
			l := newLocation(d, s)
			if l == nil {
				continue
			}
			l.nested = inside && l.modifier == regex
			l.calm = calm
			all = append(all, l)
			walk(l.scope, true, calm || l.modifier == stop)
		}
	}
	walk(server, false, false)
	return all
}

func newLocation(d *directive, outer *scope) *location {
	l := &location{scope: &scope{d, outer}}
	mark := d.arg(0)
	if len(d.args) == 2 {
		l.uri = d.args[1]
	} else {
		// The modifier may stand before the URI without a space.
		for _, m := range []string{"=", "^~", "~*", "~"} {
			if rest, ok := strings.CutPrefix(mark, m); ok {
				mark, l.uri = m, rest
				break
			}
		}
		if l.uri == "" {
			l.uri, mark = mark, ""
		}
	}
	switch mark {
	case "":
		if strings.HasPrefix(l.uri, "@") {
			l.modifier = named
		}
	case "=":
		l.modifier = exact
	case "^~":
		l.modifier = stop
	case "~":
		l.modifier = regex
	case "~*":
		l.modifier, l.fold = regex, true
	default:
		return nil
	}
	return l
}

// show writes the location as the file has it.
func (l *location) show() string { return "location " + strings.Join(l.args, " ") }

// A rewriting maps the paths that a location gets to those that it sends.
type rewriting struct {
	// identity is set where they are sent as they come.
	identity bool
	// from is the part that to takes the place of.
	from, to string
}

// apply maps a path that begins with from; to is encoded already.
func (w rewriting) apply(path string) string {
	if w.identity {
		return convert.EncodePath(path)
	}
	return w.to + convert.EncodePath(strings.TrimPrefix(path, w.from))
}

// sent gives what the location sends upstream, with a condition where patterns
// alone cannot say it; why tells what cannot be said at all.
func (l *location) sent(w rewriting) (all []convert.Pattern, when, why string) {
	switch l.modifier {
	case exact:
		return []convert.Pattern{{Shape: convert.Exact, Text: w.apply(l.uri)}}, "", ""
	case regex:
		if globs, ok := convert.ExactGlobs(l.uri, l.fold); ok {
			return globs, "", ""
		}
		when, ok := convert.AllowWhen(l.uri, l.fold, "request.path")
		if !ok {
			return nil, "", "a regular expression that only PCRE knows: write a rule with paths by hand (* within a segment, ** across)"
		}
		return convert.WiderGlobs(l.uri, l.fold), when, ""
	default:
		return []convert.Pattern{convert.PrefixOf(w.apply(l.uri))}, "", ""
	}
}

// before reports whether nginx looks at o before it decides on l, for a request
// that both match.
func (o *location) before(l *location, all []*location) bool {
	switch {
	case o == l || o.modifier == named:
		return false
	case l.modifier == exact:
		return false
	case o.modifier == exact:
		return true
	case o.modifier == regex && l.modifier == regex:
		for _, x := range all {
			if x == o || x == l {
				return x == o
			}
		}
		return false
	case o.modifier == regex:
		return l.modifier == prefix && (o.nested || !l.calm)
	case l.modifier == regex:
		return o.modifier == stop || o.calm
	default:
		return len(o.uri) > len(l.uri)
	}
}

// taken gives what o takes of the requests of l, as l would have sent them.
func (l *location) taken(o *location, all []*location, w rewriting) (paths []convert.Pattern, when string) {
	if o.modifier != regex {
		at := o.uri
		if l.modifier != regex {
			if !strings.HasPrefix(at, l.uri) {
				return nil, ""
			}
			at = w.apply(at)
		} else {
			at = convert.EncodePath(at)
		}
		switch {
		case o.modifier == exact && o.redirects(all) != "":
			return []convert.Pattern{{Shape: convert.Exact, Text: at}, {Shape: convert.Exact, Text: strings.TrimSuffix(at, "/")}}, ""
		case o.modifier == exact:
			return []convert.Pattern{{Shape: convert.Exact, Text: at}}, ""
		case o.redirects(all) != "":
			return []convert.Pattern{convert.SubtreeOf(at)}, ""
		default:
			return []convert.Pattern{convert.PrefixOf(at)}, ""
		}
	}
	globs, exactly := convert.ExactGlobs(o.uri, o.fold)
	if !exactly {
		globs = convert.WiderGlobs(o.uri, o.fold)
	}
	if l.modifier != regex {
		// What begins otherwise is none of this location's.
		globs = slices.DeleteFunc(globs, func(g convert.Pattern) bool {
			head, _, _ := strings.Cut(g.String(), "*")
			return !strings.HasPrefix(head, l.uri) && !strings.HasPrefix(l.uri, head)
		})
		if len(globs) == 0 {
			return nil, ""
		}
	}
	if !exactly {
		whole, path := convert.SubtreeOf(""), "request.path"
		if l.modifier != regex {
			whole = convert.PrefixOf(w.apply(l.uri))
		}
		if !w.identity {
			path = convert.Path(w.from, w.to)
		}
		if when, ok := convert.DenyWhen(o.uri, o.fold, path); ok {
			return []convert.Pattern{whole}, when
		}
	}
	if l.modifier == regex || w.identity {
		return globs, ""
	}
	// What cannot be told from what is left of the path can be from the whole.
	whole := func() ([]convert.Pattern, string) {
		when, _ := convert.DenyWhen(o.uri, o.fold, convert.Path(w.from, w.to))
		return []convert.Pattern{convert.PrefixOf(w.apply(l.uri))}, when
	}
	for _, g := range globs {
		text := g.String()
		head, _, _ := strings.Cut(text, "*")
		switch {
		case strings.HasPrefix(text, "/**") && text != "/**" && !straddles(strings.TrimLeft(text[1:], "*"), w.from):
			// Found anywhere in the path, so also in what is left of it.
			paths = append(paths, convert.Pattern{Shape: convert.Glob, Text: strings.TrimSuffix(w.to, "/") + text})
		case strings.HasPrefix(head, w.from) && len(head) > len(w.from):
			paths = append(paths, convert.Pattern{Shape: convert.Glob, Text: w.to + text[len(w.from):]})
		default:
			return whole()
		}
	}
	return paths, ""
}

// redirects gives the name without the slash, which nginx answers by a redirect
// before it looks at regular expressions; "" where it does not.
func (l *location) redirects(all []*location) string {
	bare := strings.TrimSuffix(l.uri, "/")
	if l.modifier == regex || l.modifier == named || bare == l.uri || bare == "" || len(l.children("proxy_pass")) == 0 {
		return ""
	}
	for _, o := range all {
		if o.modifier != regex && o.uri == bare {
			return ""
		}
	}
	return bare
}

// straddles reports whether something that begins as the glob does could begin in
// the prefix and end behind it.
func straddles(glob, prefix string) bool {
	head, _, _ := strings.Cut(glob, "*")
	for i := range prefix {
		if strings.HasPrefix(head, prefix[i:]) || strings.HasPrefix(prefix[i:], head) {
			return true
		}
	}
	return false
}
