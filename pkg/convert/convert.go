// Package convert holds what the converters of other gateways' configurations
// have in common: the draft of a configuration of ours, the notes on what could
// not be carried over, the order of rules, and the YAML.
//
// A gateway is asked by its own name and passes the request on; a workload asks
// the origin itself. So a draft describes what the gateway sent upstream, and
// nothing in it allows more than the gateway let through.
package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Place is a line of a source. Line 0 is the file as a whole.
type Place struct {
	File string
	Line int
}

// String gives FILE:LINE.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// A Kind says how much of something was carried over.
type Kind uint8

const (
	// Tuning has no counterpart and needs none: it concerns the gateway's own
	// work.
	Tuning Kind = iota
	// Changed was carried differently.
	Changed
	// Lost was left out.
	Lost
)

// A Note tells of one thing that was not carried, or carried differently.
type Note struct {
	Place
	Kind Kind
	// Text is "what: why; what to do".
	Text string
}

// String gives FILE:LINE: text.
func (n Note) String() string { return n.Place.String() + ": " + n.Text }

// Notes collects notes.
type Notes struct{ all []Note }

// Add notes something about a place; format is for Sprintf.
func (n *Notes) Add(at Place, kind Kind, format string, args ...any) {
	n.all = append(n.all, Note{at, kind, fmt.Sprintf(format, args...)})
}

// List gives the notes by place, each once.
func (n *Notes) List() []Note {
	all := slices.Clone(n.all)
	slices.SortStableFunc(all, func(a, b Note) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	seen := make(map[Note]bool, len(all))
	return slices.DeleteFunc(all, func(note Note) bool {
		known := seen[note]
		seen[note] = true
		return known
	})
}

// Complete reports whether nothing was left out.
func (n *Notes) Complete() bool {
	return !slices.ContainsFunc(n.all, func(note Note) bool { return note.Kind == Lost })
}

// A Mistake is why a source cannot be read at all.
type Mistake struct {
	Place
	Text string
}

// Error gives FILE:LINE: text.
func (m *Mistake) Error() string { return m.Place.String() + ": " + m.Text }
