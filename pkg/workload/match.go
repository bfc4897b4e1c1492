package workload

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// An Entry is one entry of the configured `workloads`.
type Entry struct {
	// Key is the entry's key in the file.
	Key string
	// Name is a template with {unit}, {container} and {command}; "" is Key.
	Name string
	// Match says what the entry applies to. The zero value matches nothing:
	// only `--workload` names such an entry.
	Match Match
}

// A Match holds when every list that is not empty has a glob that matches. In
// a glob, "*" is any text but "/", "**" any text.
type Match struct {
	Units      []string
	Cgroups    []string
	Commands   []string
	Users      []string
	Containers []ContainerMatch
}

// A ContainerMatch holds when each given key matches. Of a container that no
// engine knows, or whose cgroup another says to be, only the id counts, and that
// where only root makes cgroups.
type ContainerMatch struct {
	// Names are compared with the container's name and, in full, its id.
	Names  []string
	Images []string
	// Labels maps a label's name to globs for its value.
	Labels map[string][]string
}

// A Container is what an engine knows of a container beyond its id.
type Container struct {
	Name, Image string
	Labels      map[string]string
	// Cgroup is the cgroup of its first process, or one above it.
	Cgroup string
}

func (m *Match) empty() bool {
	return len(m.Units) == 0 && len(m.Cgroups) == 0 && len(m.Commands) == 0 && len(m.Users) == 0 && len(m.Containers) == 0
}

// holds compares all keys with what is known.
func (m *Match) holds(s *subject) bool {
	if m.empty() {
		return false
	}
	if len(m.Units) > 0 && !anyUnit(m.Units, s.id.Unit) {
		return false
	}
	if len(m.Cgroups) > 0 && !anyGlob(m.Cgroups, s.id.Cgroup) {
		return false
	}
	if len(m.Containers) > 0 && !anyContainer(m.Containers, s) {
		return false
	}
	return m.holdsForCommand(s)
}

// holdsForCommand compares the keys that describe who asked for what. They
// bind also where --workload names the entry: a user whom the entry does not
// list must not take its permissions by naming it.
func (m *Match) holdsForCommand(s *subject) bool {
	if len(m.Commands) > 0 && !anyText(m.Commands, s.id.Command) {
		return false
	}
	return len(m.Users) == 0 || anyText(m.Users, s.id.User)
}

// compiles finds globs that can never be compared.
func (m *Match) compiles() error {
	lists := [][]string{m.Units, m.Cgroups, m.Commands, m.Users}
	for _, c := range m.Containers {
		lists = append(lists, c.Names, c.Images)
		for _, globs := range c.Labels {
			lists = append(lists, globs)
		}
	}
	for _, globs := range lists {
		for _, g := range globs {
			if !doublestar.ValidatePattern(g) {
				return fmt.Errorf("glob %q: %w", g, doublestar.ErrBadPattern)
			}
		}
	}
	return nil
}

// anyUnit also compares the unit literally, since in a glob `\x2d` means
// "x2d", and unescaped, so that nobody need write `\x2d` at all.
func anyUnit(globs []string, unit string) bool {
	if unit == "" {
		return false
	}
	plain := UnescapeUnit(unit)
	for _, g := range globs {
		if g == unit || glob(g, unit) || (plain != unit && glob(g, plain)) {
			return true
		}
	}
	return false
}

func anyGlob(globs []string, value string) bool {
	if value == "" {
		return false
	}
	for _, g := range globs {
		if g == value || glob(g, value) {
			return true
		}
	}
	return false
}

// anyText compares with text in which "/" has no meaning (command lines, user
// names, images, labels): "*" matches it too.
func anyText(globs []string, value string) bool {
	if value == "" {
		return false
	}
	hidden := hideSlash.Replace(value)
	for _, g := range globs {
		if g == value || glob(hideSlash.Replace(g), hidden) {
			return true
		}
	}
	return false
}

// hideSlash makes "/" an ordinary character for the matcher. U+E000 is private
// use; a value that has one itself could only match where "/" does.
var hideSlash = strings.NewReplacer("/", "\ue000")

func anyContainer(matches []ContainerMatch, s *subject) bool {
	if !s.proven && !s.placed {
		return false
	}
	for _, m := range matches {
		if m.holds(s) {
			return true
		}
	}
	return false
}

func (m *ContainerMatch) holds(s *subject) bool {
	if len(m.Names) == 0 && len(m.Images) == 0 && len(m.Labels) == 0 {
		return false
	}
	if len(m.Names) > 0 && !anyText(m.Names, s.container.Name) && !anyText(m.Names, s.id.Container) {
		return false
	}
	if len(m.Images) > 0 && !anyText(m.Images, s.container.Image) {
		return false
	}
	for key, globs := range m.Labels {
		if !anyText(globs, s.container.Labels[key]) {
			return false
		}
	}
	return true
}

// glob was checked by compiles; a pattern that is broken all the same matches
// nothing.
func glob(pattern, value string) bool {
	ok, err := doublestar.Match(pattern, value)
	return err == nil && ok
}
