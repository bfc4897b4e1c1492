package config

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNotBuilt is what a key that the contract names but that does not exist
// yet answers to errors.Is.
var ErrNotBuilt = errors.New("not built yet")

// An Error is one mistake in one place.
type Error struct {
	File string
	// Line and Column count from 1; 0, 0 where the mistake has no place.
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
