package keeper

import (
	"slices"

	"sallyport/pkg/confine"
	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

// hideFromUnits keeps hidden from tagged units what their drop-ins hide: systemd
// covers what is there when a unit starts, and a server that starts later, or makes
// its socket anew, would be in sight until the unit's next start.
func (k *Keeper) hideFromUnits() {
	k.claims.mu.Lock()
	tags := k.claims.tags
	k.claims.mu.Unlock()
	if !slices.ContainsFunc(tags, hardened) {
		k.concern("sockets of the host")
		return
	}
	children, err := k.gate.tagged.Children()
	if err != nil {
		k.concern("sockets of the host", err.Error())
		return
	}
	hide := append(confine.HiddenSockets(-1, "", nil), confine.Hidden{Path: "/run/user"})
	var problems []string
	for _, cg := range children {
		unit := workload.OwnerOf(cg.Path()).Unit
		i := slices.IndexFunc(tags, func(r tag.Record) bool { return hardened(r) && r.Names(unit) })
		if i < 0 {
			continue
		}
		c := &command{cgroup: cg}
		c.plan.Spec = confine.Spec{Hide: hide, Own: k.ownDirectories()}
		if err := k.hideFrom(c); err != nil {
			problems = append(problems, "may be visible to "+unit+": "+err.Error())
		}
	}
	k.concern("sockets of the host", problems...)
}

// hardened reports whether a tag is of a unit from which sockets are hidden.
func hardened(r tag.Record) bool {
	return r.Kind == tag.KindUnit && !slices.Contains(r.Allow, tag.Sockets) && !slices.Contains(r.Allow, tag.Cgroups)
}
