package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A JSONPath names values of a JSON text: a subset of RFC 9535 without filters
// and slices. Without steps it is the whole.
type JSONPath []JSONStep

// A JSONStep goes from values to values inside of them.
type JSONStep struct {
	// Descend goes to any depth first.
	Descend bool
	// Any takes every member and element; else Element those of arrays at Index,
	// else the members called Name, in any case.
	Any     bool
	Element bool
	Index   int
	Name    string
}

// maxJSONSteps bounds the steps of a path.
const maxJSONSteps = 60

// ParseJSONPath reads $, $.name, $['name'], $.list[0], $.list[*].c, $.*, $..name.
func ParseJSONPath(s string) (JSONPath, error) {
	rest, found := strings.CutPrefix(s, "$")
	if !found {
		return nil, fmt.Errorf("%q: a JSON path begins with $, as $.password", s)
	}
	path := JSONPath{}
	for rest != "" {
		if len(path) == maxJSONSteps {
			return nil, fmt.Errorf("%q: more than %d steps", s, maxJSONSteps)
		}
		var step JSONStep
		rest, step.Descend = strings.CutPrefix(rest, "..")
		var err error
		switch {
		case strings.HasPrefix(rest, "["):
			rest, err = step.bracket(rest)
		case step.Descend:
			rest, err = step.dotted(rest)
		case strings.HasPrefix(rest, "."):
			rest, err = step.dotted(rest[1:])
		default:
			err = fmt.Errorf("at %q: want . or [", rest)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		path = append(path, step)
	}
	return path, nil
}

// dotted reads what follows a dot: * or a name.
func (t *JSONStep) dotted(s string) (rest string, err error) {
	end := strings.IndexAny(s, ".[")
	if end < 0 {
		end = len(s)
	}
	name := s[:end]
	switch {
	case name == "*":
		t.Any = true
	case name == "":
		return "", fmt.Errorf("a name is missing before %q", s)
	case strings.ContainsAny(name, " \t'\"?()@$*]") || !utf8.ValidString(name):
		return "", fmt.Errorf("%q: write such a name as ['…']", name)
	default:
		t.Name = name
	}
	return s[end:], nil
}

// bracket reads [*], [0], ['name'] or ["name"].
func (t *JSONStep) bracket(s string) (rest string, err error) {
	if len(s) > 1 && (s[1] == '\'' || s[1] == '"') {
		quote := s[1]
		for i := 2; i < len(s); i++ {
			switch s[i] {
			case '\\':
				if i+1 == len(s) || s[i+1] != '\\' && s[i+1] != quote {
					return "", fmt.Errorf("at %q: only a quote and a backslash can follow a backslash", s[i:])
				}
				i++
			case quote:
				if i+1 == len(s) || s[i+1] != ']' || t.Name == "" {
					return "", fmt.Errorf("at %q: want one name and ]", s)
				}
				return s[i+2:], nil
			}
			t.Name += s[i : i+1]
		}
		return "", fmt.Errorf("at %q: the quote is not closed", s)
	}
	inside, rest, closed := strings.Cut(s[1:], "]")
	switch n, err := strconv.ParseUint(inside, 10, 31); {
	case !closed:
		return "", fmt.Errorf("at %q: ] is missing", s)
	case inside == "*":
		t.Any = true
	case err != nil:
		return "", fmt.Errorf("[%s]: want [*], [0] or ['name']", inside)
	default:
		t.Element, t.Index = true, int(n)
	}
	return rest, nil
}
