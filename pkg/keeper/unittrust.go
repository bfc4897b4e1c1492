package keeper

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

// dropUnitTrust removes the trust directories of units that are not tagged any more
// and do not run: until its next start a unit has its directory mounted, untagged or
// not. One that was written since `before` stays: its drop-in may be on its way.
func (k *Keeper) dropUnitTrust(before time.Time) {
	if k.options.Standalone {
		return
	}
	units, err := k.trust.Units()
	if err != nil || len(units) == 0 {
		k.warnOf("trust of units", err)
		return
	}
	cgroups, cut, err := k.belowAll(maxDirectCgroups)
	if err != nil || len(cut) > 0 {
		k.warnOf("cgroups of units", err)
		return // what is not seen may run
	}
	k.claims.mu.Lock()
	tags, whole := k.claims.tags, k.claims.whole
	k.claims.mu.Unlock()
	if !whole {
		return
	}
	for name, written := range units {
		tagged := slices.ContainsFunc(tags, func(r tag.Record) bool { return r.Kind == tag.KindUnit && r.Name == name })
		unit := tag.Record{Kind: tag.KindUnit, Name: name}
		runs := slices.ContainsFunc(cgroups, func(cg workload.Cgroup) bool { return unit.Names(workload.OwnerOf(cg.Path()).Unit) })
		if tagged || runs || written.After(before) {
			continue
		}
		k.warnOf("trust of a unit", k.trust.DropUnit(name))
	}
}

func (k *Keeper) warnOf(what string, err error) {
	if err != nil {
		k.log.Warn(what, zap.Error(err))
	}
}
