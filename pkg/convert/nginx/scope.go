package nginx

import "slices"

// A scope is a block with the ones around it: http, server, location.
type scope struct {
	*directive
	outer *scope
}

// children gives the directives of that name in the block itself.
func (s *scope) children(names ...string) (all []*directive) {
	for _, d := range s.block {
		if slices.Contains(names, d.name) {
			all = append(all, d)
		}
	}
	return all
}

// level gives the directives of these names in the innermost block that has any:
// what stands there takes the place of all that stands further out.
func (s *scope) level(names ...string) []*directive {
	for ; s != nil; s = s.outer {
		if all := s.children(names...); len(all) > 0 {
			return all
		}
	}
	return nil
}

// last gives the directive that holds, nil where there is none.
func (s *scope) last(name string) *directive {
	all := s.level(name)
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// value gives the first parameter of the directive that holds.
func (s *scope) value(name, otherwise string) string {
	if d := s.last(name); d != nil && len(d.args) > 0 {
		return d.args[0]
	}
	return otherwise
}
