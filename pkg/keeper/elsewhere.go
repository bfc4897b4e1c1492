package keeper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"sallyport/pkg/guard"
	"sallyport/pkg/wholefile"
	"sallyport/pkg/workload"
)

// elsewhereFile keeps, in the instance's runtime directory, the tagged cgroups
// outside of the slice: the next keeper has both locks on them from its first
// moment, and teardown knows of them.
const elsewhereFile = "elsewhere.json"

// maxElsewhere bounds the tagged cgroups outside of the slice: each has ten links.
const maxElsewhere = 512

// maxElsewhereFile bounds elsewhereFile in bytes: a path is of at most 4,096
// (PATH_MAX), twice that with what JSON escapes.
const maxElsewhereFile = (maxElsewhere + 1) * 2 * 4096

// elsewhereState is what the file holds. A cgroup's id is its own in one boot.
type elsewhereState struct {
	Boot    string            `json:"boot"`
	Cgroups map[string]uint64 `json:"cgroups"`
}

// readElsewhere gives the tagged cgroups outside of the slice that are still the
// same.
func readElsewhere(i Instance, tree *workload.Tree) (map[string]workload.Cgroup, error) {
	all := make(map[string]workload.Cgroup)
	data, err := wholefile.Read(filepath.Join(i.Runtime, elsewhereFile), maxElsewhereFile)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return all, err
	}
	var s elsewhereState
	if err := json.Unmarshal(data, &s); err != nil {
		return all, fmt.Errorf("%s: %w", elsewhereFile, err)
	}
	if s.Boot != bootID() {
		return all, nil
	}
	for path, id := range s.Cgroups {
		if cg, err := tree.Cgroup(path); err == nil && cg.ID() == id {
			all[path] = cg
		}
	}
	return all, nil
}

// bootID is this boot's name (random(4)), "" where the kernel gives none.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// recallElsewhere learns what an earlier keeper tagged outside of the slice.
func (g *gate) recallElsewhere() {
	if g.instance.Name != servicePrefix {
		return
	}
	var err error
	if g.elsewhere, err = readElsewhere(g.instance, g.tree); err != nil {
		// What is pinned holds on, and load finds it.
		g.log.Error("cgroups tagged outside of the slice", zap.Error(err))
	}
}

// attachElsewhere attaches the programs to what recallElsewhere knows, and learns
// what is pinned besides.
func (g *gate) attachElsewhere() error {
	if g.instance.Name != servicePrefix {
		return nil
	}
	if g.elsewhere == nil {
		g.elsewhere = make(map[string]workload.Cgroup)
	}
	for dir, id := range g.data.Tagged() {
		path := strings.TrimPrefix(dir, g.tree.Point())
		if path == g.tagged.Path() {
			continue
		}
		if cg, err := g.tree.Cgroup(path); err == nil && cg.ID() == id {
			g.elsewhere[path] = cg
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	state := g.state
	for path, cg := range g.elsewhere {
		err := g.data.Attach(cg.Dir())
		if _, gone := g.tree.Cgroup(path); errors.Is(gone, workload.ErrGone) {
			delete(g.elsewhere, path)
		} else if err != nil {
			return fmt.Errorf("bpf: attach to %s: %w", path, err)
		}
		if t := (guard.Cgroup{ID: cg.ID(), Level: cg.Level()}); !slices.Contains(state.Tagged, t) {
			state.Tagged = append(slices.Clone(state.Tagged), t)
		}
	}
	if slices.Equal(state.Tagged, g.state.Tagged) {
		return nil
	}
	g.state = state
	if err := g.guard.Apply(state); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// tagElsewhere shuts the gate around a cgroup outside of the slice, with both
// locks. Sockets that its processes have already reach nothing from then on. A
// cgroup above or below a tagged one gives datapath.ErrNested. On an error nothing
// has changed.
func (g *gate) tagElsewhere(cg workload.Cgroup) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, ok := g.elsewhere[cg.Path()]; ok && old.ID() == cg.ID() {
		return nil
	} else if ok {
		delete(g.elsewhere, cg.Path())
	}
	if len(g.elsewhere) >= maxElsewhere {
		return fmt.Errorf("%d cgroups are tagged outside of the slice: %w", maxElsewhere, workload.ErrFull)
	}
	if g.elsewhere == nil {
		g.elsewhere = make(map[string]workload.Cgroup)
	}
	before := g.state.Tagged
	state := g.state
	state.Tagged = append(slices.Clone(before), guard.Cgroup{ID: cg.ID(), Level: cg.Level()})
	if err := g.guard.Apply(state); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	g.state = state
	if err := g.data.Attach(cg.Dir()); err != nil {
		g.state.Tagged = before
		return errors.Join(fmt.Errorf("bpf: attach to %s: %w", cg.Path(), err), g.guard.Apply(g.state))
	}
	if g.others != nil {
		g.others(state)
	}
	g.elsewhere[cg.Path()] = cg
	return g.saveElsewhere()
}

// forgetElsewhere forgets the tagged cgroups that are gone, and reports whether
// there were any.
func (g *gate) forgetElsewhere() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	forgot := false
	for path, cg := range g.elsewhere {
		now, err := g.tree.Cgroup(path)
		if err == nil && now.ID() == cg.ID() || err != nil && !errors.Is(err, workload.ErrGone) {
			continue
		}
		forgot = true
		delete(g.elsewhere, path)
		errs = append(errs, g.data.Detach(cg.Dir()))
		g.state.Tagged = slices.DeleteFunc(slices.Clone(g.state.Tagged), func(t guard.Cgroup) bool { return t.ID == cg.ID() })
	}
	if !forgot {
		return false, nil
	}
	if g.others != nil {
		g.others(g.state)
	}
	return true, errors.Join(append(errs, g.guard.Apply(g.state), g.saveElsewhere())...)
}

// saveElsewhere writes the file. The caller holds g.mu.
func (g *gate) saveElsewhere() error {
	s := elsewhereState{Boot: bootID(), Cgroups: make(map[string]uint64, len(g.elsewhere))}
	for path, cg := range g.elsewhere {
		s.Cgroups[path] = cg.ID()
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return wholefile.Write(filepath.Join(g.instance.Runtime, elsewhereFile), data, 0o600)
}

// taggedCgroups are the cgroups that are tagged, the slice first; what is below
// them belongs to them.
func (g *gate) taggedCgroups() []workload.Cgroup {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]workload.Cgroup{g.tagged}, g.sortedElsewhere()...)
}

func (g *gate) sortedElsewhere() []workload.Cgroup {
	all := make([]workload.Cgroup, 0, len(g.elsewhere))
	for _, cg := range g.elsewhere {
		all = append(all, cg)
	}
	slices.SortFunc(all, func(a, b workload.Cgroup) int { return cmp.Compare(a.Path(), b.Path()) })
	return all
}

// inside reports whether a path is that of a tagged cgroup or below one.
func (g *gate) inside(path string) bool {
	return slices.ContainsFunc(g.taggedCgroups(), func(cg workload.Cgroup) bool {
		return path == cg.Path() || strings.HasPrefix(path, cg.Path()+"/")
	})
}
