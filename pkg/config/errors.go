package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNotBuilt is what a key that the contract names but that does not exist
// yet answers to errors.Is.
var ErrNotBuilt = errors.New("not built yet")

// An Error is one mistake in one place.
type Error struct {
	File string
	// Line and Column count from 1; 0, 0 where the mistake has no place. Columns
	// count characters.
	Line, Column int
	Message      string
	notBuilt     bool
}

// Error gives FILE:LINE:COL: message.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Is makes a key that is not built yet equal to ErrNotBuilt.
func (e *Error) Is(target error) bool { return target == ErrNotBuilt && e.notBuilt }

// Errors are all mistakes of a configuration, in order of file and place.
type Errors []*Error

// Error gives one line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As look at each mistake.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// A report collects mistakes, at most maxErrors of them.
type report struct {
	errs Errors
	// order is the place of each file among the sources.
	order map[string]int
}

func (r *report) add(at place, format string, args ...any) *Error {
	e := &Error{File: at.file, Line: at.line, Column: at.column, Message: fmt.Sprintf(format, args...)}
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, e)
	}
	return e
}

// notBuilt reports a key of the contract that does not exist yet.
func (r *report) notBuilt(at place, key string) {
	r.add(at, "%s: %v", key, ErrNotBuilt).notBuilt = true
}

// err gives all mistakes in order, or nil. A mistake that is reached by several
// ways, as in an anchor that is used twice, is told once.
func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(r.order[a.File], r.order[b.File]),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
		)
	})
	return slices.CompactFunc(r.errs, func(a, b *Error) bool { return *a == *b })
}

// suggest gives ` (did you mean "x"?)` for the name that is nearest to what was
// written, if one is near.
func suggest(written string, names []string) string {
	best, least := "", min(3, 1+len(written)/3)
	for _, name := range names {
		if d := distance(strings.ToLower(written), name); d < least || d == least && best == "" {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// mostKeys is how many keys a message lists.
const mostKeys = 12

// instead is suggest for a key; where none is like it, it names the few that there
// are: to nginx's and Kong's words likeness does not lead.
func instead(written string, keys []string) string {
	s := suggest(written, keys)
	switch {
	case s != "" || len(keys) == 0:
		return s
	case len(keys) <= mostKeys:
		return " (want " + quoted(keys) + ")"
	case slices.Contains(keys, "match") && slices.Contains(matchKeys, written):
		return " (it belongs in match)"
	default:
		return ""
	}
}

// matchKeys are the keys of a rule's match.
var matchKeys = []string{"workloads", "hosts", "cidrs", "ports", "protocols", "methods", "paths", "headers", "when"}

// distance counts the characters to insert, remove, replace or swap with their
// neighbour (Damerau and Levenshtein, optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	here := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		here[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			here[j] = min(last[j]+1, here[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				here[j] = min(here[j], before[j-2]+1)
			}
		}
		before, last, here = last, here, before
	}
	return last[len(b)]
}
