package pattern

// A Path is a compiled path pattern: * within a segment, ** across.
type Path struct {
	text string
}

// String gives the text that was parsed.
func (p Path) String() string { return p.text }
