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
