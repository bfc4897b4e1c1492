package config

import (
	"errors"
	"math"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// contentFilters reads the filters of a rule.
func (d *decoder) contentFilters(n *node, path string) []ContentFilter {
	var all []ContentFilter
	named := make(map[string]place)
	d.few(n, path, MaxFilters, func(n *node) {
		f := ContentFilter{In: InRequest, Action: FilterBlock, Status: 400}
		d.object(n, path,
			field{"name", func(n *node) {
				s, ok := d.text(n, path+".name")
				switch first, twice := named[s]; {
				case !ok:
				case s == "" || strings.TrimSpace(s) != s:
					d.add(n.place, "%s%q: want a name without spaces around it", prefix(path+".name"), s)
				case len(s) > MaxName || !utf8.ValidString(s):
					d.add(n.place, "%slonger than %d bytes", prefix(path+".name"), MaxName)
				case twice:
					d.add(n.place, "%s%q is already defined at %s", prefix(path+".name"), s, first)
				default:
					named[s], f.Name = n.place, s
				}
			}},
			field{"pattern", func(n *node) {
				s, ok := d.text(n, path+".pattern")
				if !ok {
					return
				}
				if err := d.pattern(s); err != nil {
					d.add(n.place, "%s%q %v", prefix(path+".pattern"), s, err)
					return
				}
				f.Pattern = s
			}},
			field{"in", func(n *node) { word(d, n, path+".in", &f.In, InRequest, InResponse, InBoth) }},
			field{"action", func(n *node) {
				word(d, n, path+".action", &f.Action, FilterBlock, FilterRedact, FilterReport)
			}},
			field{"status", func(n *node) { d.count(n, path+".status", 400, 599, &f.Status) }},
		)
		d.needs(n, path, "name", "pattern")
		all = append(all, f)
	})
	return all
}

// pattern checks a pattern, each text once: many rules may share it.
func (d *decoder) pattern(s string) error {
	err, known := d.patterns[s]
	if !known {
		err = checkPattern(s)
		if d.patterns == nil {
			d.patterns = make(map[string]error)
		}
		d.patterns[s] = err
	}
	return err
}

// checkPattern demands a regular expression of RE2 that finds at least one
// character: one that also finds nothing is found everywhere.
func checkPattern(s string) error {
	if _, err := regexp.Compile(s); err != nil {
		var bad *syntax.Error
		if errors.As(err, &bad) {
			return errors.New("is no regular expression of RE2: " + bad.Code.String() + ": " + bad.Expr)
		}
		return err
	}
	re, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return err
	}
	if shortest(re) == 0 {
		return errors.New("also matches where nothing is, so it would be found everywhere")
	}
	return nil
}

// shortest gives the least number of characters that re can match.
func shortest(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpCapture, syntax.OpPlus:
		return shortest(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min * shortest(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, sub := range re.Sub {
			n = min(n+shortest(sub), math.MaxInt32)
		}
		return n
	case syntax.OpAlternate:
		n := math.MaxInt32
		for _, sub := range re.Sub {
			n = min(n, shortest(sub))
		}
		return n
	case syntax.OpNoMatch:
		return math.MaxInt32
	default:
		return 0
	}
}
