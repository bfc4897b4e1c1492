package workload

import (
	"fmt"
	"slices"
	"strings"
)

// A Named is what a `tag` command said of things that it named, now and after
// their next start.
type Named struct {
	Match Match
	// Workload is the value of --workload; "" only captures.
	Workload string
}

// SetNamed replaces what the commands have said. It goes before the configured
// entries. On an error the former stays.
func (r *Registry) SetNamed(named []Named) error {
	for _, n := range named {
		if err := n.Match.compiles(); err != nil {
			return fmt.Errorf("tag: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.named = named
	r.asks.Store(askEngines(r.entries) || askForNames(named))
	r.known.Purge()
	return nil
}

func askForNames(named []Named) bool {
	return slices.ContainsFunc(named, func(n Named) bool { return len(n.Match.Containers) > 0 })
}

// nameOf is the workload that a command gave to the subject, "" if none. A
// command of exec bears its own.
func (r *Registry) nameOf(s *subject) string {
	if s.id.Command != "" {
		return ""
	}
	for k := range r.named {
		if r.named[k].Workload != "" && r.named[k].Match.holds(s) {
			return r.named[k].Workload
		}
	}
	return ""
}

// A Claim is why a cgroup outside of the slice is to be captured.
type Claim struct {
	// By is the configured entry, or "tag" for what a command said.
	By string
	// Unsure says that an entry asks for containers and no engine has told yet
	// which one the cgroup is: ask again.
	Unsure bool
}

// ClaimOf says whether a cgroup outside of the slice is to be captured: a tag or
// a configured match names it. A pattern that begins with a wildcard names
// nothing there: `unit: "*"` means each of the slice's units, not the host's.
func (r *Registry) ClaimOf(path string) (Claim, bool) {
	found := r.container(path, nil)
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := newSubject(path, nil, &found)
	for k := range r.named {
		if r.named[k].Match.holds(s) {
			return Claim{By: "tag"}, true
		}
	}
	for k := range r.entries {
		if e := &r.entries[k]; e.Match.Elsewhere() && e.Match.holds(s) {
			return Claim{By: e.Key}, true
		}
	}
	return Claim{Unsure: found.missed}, false
}

// ClaimsElsewhere reports whether anything outside of the slice could be claimed.
func (r *Registry) ClaimsElsewhere() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.named) > 0 || slices.ContainsFunc(r.entries, func(e Entry) bool { return e.Match.Elsewhere() })
}

// Elsewhere reports whether the match can name something outside of the slice:
// each key of a unit, cgroup or container that it has begins with what is no
// wildcard, and it has one.
func (m *Match) Elsewhere() bool {
	if len(m.Commands) > 0 || len(m.Users) > 0 {
		return false // those of exec are below the slice
	}
	if len(m.Units) == 0 && len(m.Cgroups) == 0 && len(m.Containers) == 0 {
		return false
	}
	for _, c := range m.Containers {
		// A label's key is literal.
		if len(c.Labels) == 0 && !literal(c.Names, "") && !literal(c.Images, "") {
			return false
		}
	}
	return (len(m.Units) == 0 || literal(m.Units, "")) && (len(m.Cgroups) == 0 || literal(m.Cgroups, "/"))
}

// literal reports whether all patterns begin with the prefix and then with what
// is no wildcard.
func literal(globs []string, prefix string) bool {
	return len(globs) > 0 && !slices.ContainsFunc(globs, func(g string) bool {
		rest, ok := strings.CutPrefix(g, prefix)
		return !ok || rest == "" || strings.ContainsRune("*?[{", rune(rest[0]))
	})
}

// Quote gives a pattern that matches only the text.
func Quote(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, "{", `\{`, "}", `\}`).Replace(text)
}
