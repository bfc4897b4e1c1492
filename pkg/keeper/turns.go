package keeper

import (
	"errors"

	"sallyport/pkg/workload"
)

// A turn is a cgroup on a walk over many in which siblings take turns, at every
// level: however many one of them has below it, it takes no place from another.
// That matters because the walks are bounded, and who may make cgroups may make as
// many as it likes.
type turn struct {
	cgroup  workload.Cgroup
	above   *turn // nil for those with which the walk began
	visited bool
	below   []*turn // those that may have something left
	next    int     // of them
}

// byTurnsBelow visits cgroups and all below them, at most most. What is below a
// cgroup is read after the visit, and only where that says so. It gives where the
// walk was cut short, as far down as it is one place, and what could not be read;
// what has ended meanwhile is passed over.
func byTurnsBelow(from []workload.Cgroup, most int, visit func(*turn) (descend bool)) (cut []*turn, err error) {
	top := &turn{visited: true}
	for _, cg := range from {
		top.below = append(top.below, &turn{cgroup: cg})
	}
	var errs []error
	for range most {
		t := top.take()
		if t == nil {
			return nil, errors.Join(errs...)
		}
		if !visit(t) {
			continue
		}
		children, err := t.cgroup.Children()
		if err != nil && !errors.Is(err, workload.ErrGone) {
			errs = append(errs, err)
		}
		for _, cg := range children {
			t.below = append(t.below, &turn{cgroup: cg, above: t})
		}
	}
	return cutOf(top.below, nil), errors.Join(errs...)
}

// take gives the cgroup whose turn it is, nil if all were visited.
func (t *turn) take() *turn {
	if !t.visited {
		t.visited = true
		return t
	}
	for len(t.below) > 0 {
		t.next %= len(t.below)
		if found := t.below[t.next].take(); found != nil {
			t.next++
			return found
		}
		last := len(t.below) - 1
		t.below[t.next], t.below = t.below[last], t.below[:last]
	}
	return nil
}

// unfinished reports whether something at or below it was not visited.
func (t *turn) unfinished() bool {
	if !t.visited {
		return true
	}
	for _, b := range t.below {
		if b.unfinished() {
			return true
		}
	}
	return false
}

// cutOf gives those of some siblings below which something was not visited, or the
// one above them where they were not visited themselves; of one alone, where below
// it that is.
func cutOf(siblings []*turn, above *turn) []*turn {
	var cut []*turn
	for _, t := range siblings {
		if !t.visited && above != nil {
			return []*turn{above}
		}
		if t.unfinished() {
			cut = append(cut, t)
		}
	}
	if len(cut) == 1 && cut[0].visited {
		return cutOf(cut[0].below, cut[0])
	}
	return cut
}

// pathsOf names cgroups for a person, at most maxNamespacesNamed.
func pathsOf(turns []*turn) []string {
	var paths []string
	for _, t := range turns[:min(len(turns), maxNamespacesNamed)] {
		paths = append(paths, t.cgroup.Path())
	}
	return paths
}
