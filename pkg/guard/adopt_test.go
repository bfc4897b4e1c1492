package guard

import (
	"net/netip"
	"testing"
)

// TestAdopt: who takes a table over without knowing all of it takes nothing away
// until it does, and a table that somebody has opened is no table that holds.
func TestAdopt(t *testing.T) {
	needRoot(t)
	ns := newNamespace(t)
	slice, below := Cgroup{ID: 4711, Level: 2}, Cgroup{ID: 4712, Level: 4}
	whole := State{
		Tagged:  []Cgroup{slice, below},
		Inbound: []Inbound{{Cgroup: below.ID, Port: 8080}},
		Direct:  []Direct{{Cgroup: below.ID, Prefix: netip.MustParsePrefix("198.51.100.0/24"), First: 5432, Last: 5432, Protocol: TCP}},
	}
	base := State{Tagged: []Cgroup{slice}}
	first := newGuard(t, ns)
	if err := first.Holds(base); err == nil {
		t.Error("no table holds the slice")
	}
	apply(t, first, whole)
	next := newGuard(t, ns)
	if err := next.Holds(base); err != nil {
		t.Error(err)
	}
	if err := next.Lists(below); err != nil {
		t.Error(err)
	}
	if err := next.Lists(Cgroup{ID: below.ID, Level: 3}); err == nil {
		t.Error("the table lists a cgroup of another level")
	}
	if err := next.Holds(State{Tagged: []Cgroup{{ID: 99, Level: 2}}}); err == nil {
		t.Error("the table holds a cgroup that nobody tagged")
	}
	if err := next.Adopt(base); err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*Guard{"who made it": first, "who took it over": next} {
		if problems, err := g.Check(); err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", name, problems, err)
		}
	}
	// From the first whole state on only that holds.
	apply(t, next, base)
	if problems, err := first.Check(); err != nil || len(problems) == 0 {
		t.Errorf("what is no longer let through still is: %v, %v", problems, err)
	}
	nft(t, ns, "flush chain inet "+next.table+" output")
	if err := next.Holds(base); err == nil {
		t.Error("a flushed chain holds")
	}
	// Of a table that is broken nothing is adopted but its elements.
	if err := next.Adopt(base); err != nil {
		t.Fatal(err)
	}
	if err := next.Holds(base); err != nil {
		t.Error(err)
	}
}
