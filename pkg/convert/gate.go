package convert

import (
	"fmt"
	"slices"
	"strings"
)

// A Gate is something of the source that kept requests out and has no
// counterpart. A rule behind it allows a workload that nothing matches yet, so
// that nobody passes until somebody has decided who may.
type Gate struct {
	// Callers is set where the source said who may ask; else it may have refused
	// requests by what they were.
	Callers bool
	Place   Place
	// Reason tells what it was.
	Reason string
}

// Gates makes the workloads of gates, one for each set of reasons.
type Gates struct {
	known     map[string]string
	Workloads []Workload
}

// Close puts a rule behind gates. It gives the name of the workload, "" where
// there is no gate.
func (g *Gates) Close(r *Rule, gates []Gate) string {
	if len(gates) == 0 {
		return ""
	}
	var reasons []string
	base := "callers"
	for _, gate := range gates {
		reason := fmt.Sprintf("%s (%s)", gate.Reason, gate.Place)
		if !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
		if !gate.Callers {
			base = "after-review"
		}
	}
	key := strings.Join(reasons, "\n")
	name, known := g.known[key]
	if !known {
		if g.known == nil {
			g.known = make(map[string]string)
		}
		name = base
		for i := 2; slices.ContainsFunc(g.Workloads, func(w Workload) bool { return w.Name == name }); i++ {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		g.known[key] = name
		w := Workload{Name: name, Comment: []string{"Nobody yet: say which programs these are (match: unit, container, command or user),"}}
		if base == "callers" {
			w.Comment = append(w.Comment, "or start them with --workload "+name+". The gateway let in only callers that passed:")
		} else {
			w.Comment = append(w.Comment, "or start them with --workload "+name+", when you have looked at what the gateway also asked:")
		}
		for _, r := range reasons {
			w.Comment = append(w.Comment, "  "+r)
		}
		g.Workloads = append(g.Workloads, w)
	}
	r.Match.Workloads = []string{name}
	return name
}
