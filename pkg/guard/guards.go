package guard

import "fmt"

// Guards reports whether the table of this name, whoever made it, knows the
// cgroup as a tagged one; the error says what is missing.
func Guards(table string, c Cgroup) error {
	g, err := New(Options{Table: table})
	if err != nil {
		return err
	}
	defer g.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	got, err := g.read()
	if err != nil {
		return fmt.Errorf("guard: read table %s: %w", table, err)
	}
	_, known := got.sets[named(taggedName, c.Level)].elements[tagged(c.ID)]
	output := got.chains["output"]
	if !known || len(output.rules) == 0 || got.flags != 0 {
		return fmt.Errorf("guard: table %s does not guard cgroup %d", table, c.ID)
	}
	return nil
}
