package workload

import (
	"fmt"
	"strings"
)

// checkTemplate demands that braces enclose one of the known words.
func checkTemplate(name string) error {
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return nil
		}
		word, tail, ok := strings.Cut(after, "}")
		if !ok {
			return fmt.Errorf("name %q: `{` without `}`", name)
		}
		switch word {
		case "unit", "container", "command":
		default:
			return fmt.Errorf("name %q: {%s} is not one of {unit}, {container}, {command}", name, word)
		}
		rest = tail
	}
}

// expand fills an entry's name. A word that has no value for this workload
// ({unit} of a container) makes the name the entry's key: a name with a hole
// would join workloads that are not the same.
func expand(e *Entry, s *subject, container string) string {
	if e.Name == "" {
		return e.Key
	}
	if !strings.Contains(e.Name, "{") {
		return e.Name
	}
	values := map[string]string{"unit": s.id.Unit, "container": container, "command": s.program}
	var b strings.Builder
	rest := e.Name
	for {
		before, after, ok := strings.Cut(rest, "{")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		word, tail, _ := strings.Cut(after, "}")
		if values[word] == "" {
			return e.Key
		}
		b.WriteString(values[word])
		rest = tail
	}
}

// couldName reports whether an entry could give this name, which somebody chose
// freely, to a workload that it matches. Where that cannot be told it says so:
// the name is then not given to anything else.
func couldName(e *Entry, name string) bool {
	literals, words := parts(e.Name)
	if len(words) == 0 {
		return name == e.Name
	}
	rest, ok := strings.CutPrefix(name, literals[0])
	if !ok {
		return false
	}
	rest, ok = strings.CutSuffix(rest, literals[len(literals)-1])
	if !ok || rest == "" {
		return false
	}
	if len(words) > 1 {
		for _, l := range literals[1 : len(literals)-1] {
			if _, rest, ok = strings.Cut(rest, l); !ok {
				return false
			}
		}
		return true
	}
	switch words[0] {
	case "unit":
		if len(e.Match.Units) > 0 {
			return anyUnit(e.Match.Units, rest)
		}
		return strings.Contains(rest, ".") // every unit's name ends in its type
	case "command":
		return len(e.Match.Commands) == 0 || anyText(e.Match.Commands, rest)
	default:
		return couldBeContainer(e.Match.Containers, rest)
	}
}

// couldBeContainer reports whether one of the containers that match could go by
// a name, or by the beginning of an id.
func couldBeContainer(matches []ContainerMatch, name string) bool {
	for _, m := range matches {
		if len(m.Names) == 0 || anyText(m.Names, name) {
			return true
		}
		for _, glob := range m.Names {
			if strings.HasPrefix(glob, name) {
				return true
			}
		}
	}
	return false
}

// parts splits a template that checkTemplate accepted: there is one literal more
// than words.
func parts(name string) (literals, words []string) {
	for {
		before, after, ok := strings.Cut(name, "{")
		literals = append(literals, before)
		if !ok {
			return literals, words
		}
		word, tail, _ := strings.Cut(after, "}")
		words = append(words, word)
		name = tail
	}
}
