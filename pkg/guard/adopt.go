package guard

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Adopt is Apply for who takes the table over from another process and does not
// know yet all that it let through: cgroups that are tagged there and elements of
// sets beyond those of state stay until the next Apply. Taking them away would end
// the connections that they belong to.
func (g *Guard) Adopt(state State) error { return g.apply(state, true) }

// Holds reports whether the table in the kernel enforces at least what state says,
// whoever made it; the error says what differs first. It changes nothing.
func (g *Guard) Holds(state State) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	got, err := g.read()
	if err != nil {
		return fmt.Errorf("guard: read table %s: %w", g.table, err)
	}
	r, err := build(state.with(got))
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	want, err := expect(r)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	want.adopt(got)
	if problems := compare(want, got); len(problems) > 0 {
		return fmt.Errorf("guard: table %s: %s", g.table, problems[0])
	}
	return nil
}

// Lists reports whether the table is in force and sends what a cgroup sends to its
// rules, without a look at what those are.
func (g *Guard) Lists(c Cgroup) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	got, err := g.read()
	if err != nil {
		return fmt.Errorf("guard: read table %s: %w", g.table, err)
	}
	out, ok := got.chains["output"]
	_, listed := got.sets[named(taggedName, c.Level)].elements[tagged(c.ID)]
	switch {
	case !got.exists:
		return fmt.Errorf("guard: table %s: missing", g.table)
	case got.flags&unix.NFT_TABLE_F_DORMANT != 0:
		return fmt.Errorf("guard: table %s: dormant", g.table)
	case !ok || !out.base || len(out.rules) == 0:
		return fmt.Errorf("guard: table %s: chain output: missing", g.table)
	case !listed:
		return fmt.Errorf("guard: table %s: cgroup %d is not in it", g.table, c.ID)
	}
	return nil
}

// with gives the state with the cgroups that the kernel's table knows as tagged.
func (s State) with(got snapshot) State {
	s.Tagged = slices.Clone(s.Tagged)
	for name, set := range got.sets {
		digits, ok := strings.CutPrefix(name, taggedName)
		level, err := strconv.Atoi(digits)
		if !ok || err != nil || level < 1 || level > maxLevel {
			continue
		}
		for e := range set.elements {
			if len(e.key) != 8 {
				continue
			}
			c := Cgroup{ID: binary.NativeEndian.Uint64([]byte(e.key)), Level: level}
			// An id has one level; who made the table may have been wrong.
			if c.ID != 0 && !slices.ContainsFunc(s.Tagged, func(o Cgroup) bool { return o.ID == c.ID }) {
				s.Tagged = append(s.Tagged, c)
			}
		}
	}
	return s
}

// adopt adds the elements that the kernel's sets have already.
func (e *expected) adopt(got snapshot) {
	for i := range e.sets {
		s := &e.sets[i]
		have, ok := got.sets[s.name]
		if !ok || have.shape != e.shapes[s.name] {
			continue
		}
		for el := range have.elements {
			if _, known := e.elements[s.name][el]; !known {
				e.elements[s.name][el] = struct{}{}
				s.elements = append(s.elements, el)
			}
		}
	}
}
