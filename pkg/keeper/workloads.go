package keeper

import (
	"slices"
	"strings"

	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

// workloads names the populated cgroups directly below the slice, those that are
// tagged elsewhere and those that are captured late, each with what a person must
// know of it; deeper ones belong to them.
func (k *Keeper) workloads() ([]workload.Identity, map[string][]string, error) {
	roots := k.gate.taggedCgroups()
	cgroups, err := roots[0].Children()
	if err != nil {
		return nil, nil, err
	}
	cgroups = append(cgroups, roots[1:]...)
	var out []workload.Identity
	notes := make(map[string][]string)
	for _, cg := range cgroups {
		if cg.ID() == k.prober.cgroup.ID() {
			continue
		}
		if populated, err := cg.Populated(); err != nil || !populated {
			continue
		}
		id, err := k.registry.Identify(cg.ID())
		if err != nil {
			continue // it ended while we asked
		}
		out = append(out, id)
		if n := k.notesOf(cg, id); len(n) > 0 {
			notes[id.Cgroup] = n
		}
	}
	for _, l := range k.lateNow() {
		out = append(out, l.id)
		notes[l.id.Cgroup] = []string{"captured late"}
	}
	return out, notes, nil
}

// notesOf says what of a workload is open, and what it lacks.
func (k *Keeper) notesOf(cg workload.Cgroup, id workload.Identity) []string {
	if k.options.Standalone || id.Command != "" {
		return nil
	}
	var notes []string
	k.claims.mu.Lock()
	tags := k.claims.tags
	k.claims.mu.Unlock()
	for _, r := range tags {
		if r.Kind == tag.KindUnit && id.Unit != "" && r.Names(id.Unit) && len(r.Allow) > 0 {
			names := make([]string, len(r.Allow))
			for i, o := range r.Allow {
				names[i] = string(o)
			}
			slices.Sort(names)
			notes = append(notes, "allowed: "+strings.Join(names, ","))
		}
	}
	if id.Container != "" {
		if missing := k.trustMissing(cg); missing != "" {
			notes = append(notes, "trust incomplete: "+missing)
		}
	}
	return notes
}
