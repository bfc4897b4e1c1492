package kong

import (
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// shadow gives the requests of w that the higher way takes, as they would have
// been sent to the service; whole is set where those are all.
func (w *way) shadow(s *service, higher *way) (hole *convert.Hole, whole bool) {
	a, b := w.route, higher.route
	if a == b && a.strip == b.strip && !w.regex && !higher.regex {
		// The same rule and the same service.
		return nil, false
	}
	if evades(a.hosts, b.hosts) || evades(a.snis, b.snis) || evades(a.protocols, b.protocols) {
		// A caller could choose not to be taken by the higher one.
		return nil, false
	}
	hole = &convert.Hole{Methods: a.methods}
	conditional := false
	if len(b.methods) > 0 {
		if len(a.methods) == 0 {
			hole.Methods, conditional = b.methods, true
		} else {
			hole.Methods = intersection(a.methods, b.methods)
			conditional = len(hole.Methods) < len(a.methods)
			if len(hole.Methods) == 0 {
				return nil, false
			}
		}
	}
	hole.Headers = append(hole.Headers, a.headers...)
	for _, h := range b.headers {
		i := slices.IndexFunc(hole.Headers, func(x convert.Header) bool { return strings.EqualFold(x.Name, h.Name) })
		if i < 0 {
			// Kong compares values without case; refusing any value is never wider.
			hole.Headers = append(hole.Headers, convert.Header{Name: h.Name, Values: []string{"*"}})
			conditional = true
			continue
		}
		both := slices.DeleteFunc(slices.Clone(hole.Headers[i].Values), func(v string) bool {
			return !slices.ContainsFunc(h.Values, func(o string) bool { return strings.EqualFold(o, v) || strings.HasPrefix(o, "~*") })
		})
		if len(both) == 0 {
			return nil, false
		}
		conditional = conditional || len(both) < len(hole.Headers[i].Values)
		hole.Headers[i].Values = both
	}
	for i := range hole.Headers {
		if !slices.Equal(hole.Headers[i].Values, []string{"*"}) {
			values := make([]string, len(hole.Headers[i].Values))
			for j, v := range hole.Headers[i].Values {
				values[j] = glob.Replace(v)
			}
			hole.Headers[i].Values = values
		}
	}
	paths, when, all := w.taken(s, higher)
	hole.When = when
	switch {
	case all && !conditional:
		return nil, true
	case all:
		hole.Paths, hole.When, _ = w.upstreamPaths(s)
	case len(paths) == 0:
		return nil, false
	default:
		hole.Paths = paths
	}
	for i, p := range hole.Paths {
		if p.Err() != nil {
			hole.Paths[i] = convert.SubtreeOf("")
		}
	}
	return hole, false
}

// evades reports whether what asks for a may lie outside of what asks for b.
func evades(a, b []string) bool {
	if len(b) == 0 {
		return false
	}
	if len(a) == 0 {
		return true
	}
	if slices.ContainsFunc(b, func(s string) bool { return strings.Contains(s, "*") }) {
		return false
	}
	return slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

func intersection(a, b []string) (both []string) {
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

// taken gives the paths of w that the higher way takes; all where those are all
// or where it cannot be told.
func (w *way) taken(s *service, higher *way) (paths []convert.Pattern, when string, all bool) {
	if higher.path == "" {
		return nil, "", true
	}
	base := strings.TrimRight(s.path, "/")
	identity := w.path == "" || !w.route.strip || w.path == "/"
	if !higher.regex {
		switch {
		case w.regex && !identity:
			return nil, "", true
		case w.regex:
			return []convert.Pattern{convert.SubtreeOf(base + higher.path), convert.PrefixOf(base + higher.path)}, "", false
		case strings.HasPrefix(w.path, higher.path):
			return nil, "", true
		case !strings.HasPrefix(higher.path, w.path) && w.path != "":
			return nil, "", false
		case identity:
			return []convert.Pattern{under(base, higher.path)}, "", false
		}
		left := higher.path[len(w.path):]
		if w.route.handling == "v1" {
			return []convert.Pattern{under(base, left)}, "", false
		}
		return []convert.Pattern{under(base, "/"+strings.TrimLeft(left, "/"))}, "", false
	}
	globs, exactly := convert.ExactGlobs(higher.expression(), false)
	if !exactly {
		globs = convert.WiderGlobs(higher.expression(), false)
	}
	if !w.regex {
		globs = slices.DeleteFunc(globs, func(g convert.Pattern) bool {
			head, _, _ := strings.Cut(g.String(), "*")
			return !strings.HasPrefix(head, w.path) && !strings.HasPrefix(w.path, head)
		})
		if len(globs) == 0 {
			return nil, "", false
		}
	}
	if !exactly && identity {
		if when, ok := convert.DenyWhen(higher.expression(), false, convert.Path("", base)); ok {
			return []convert.Pattern{convert.SubtreeOf(base)}, when, false
		}
	}
	for _, g := range globs {
		head, _, _ := strings.Cut(g.String(), "*")
		switch {
		case identity:
			paths = append(paths, below(base, g))
		case !w.regex && strings.HasPrefix(head, w.path) && len(head) > len(w.path) && w.route.handling != "v1" && g.Shape != convert.Exact:
			g.Text = "/" + strings.TrimLeft(g.Text[len(w.path):], "/")
			if g.Shape == convert.Subtree {
				g = convert.SubtreeOf(g.Text)
			}
			paths = append(paths, below(base, g))
		default:
			return nil, "", true
		}
	}
	return paths, "", false
}

// under gives what begins with base and more, with the directory itself.
func under(base, more string) convert.Pattern {
	if strings.HasSuffix(more, "/") {
		return convert.SubtreeOf(base + more)
	}
	return convert.PrefixOf(base + more)
}
