package keeper

import (
	"errors"
	"fmt"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/engine"
	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

func (l *lateCgroup) String() string {
	what := "cgroup " + l.cgroup.Path()
	switch {
	case l.id.Container != "":
		what = "container " + l.id.Container[:min(len(l.id.Container), 12)] + " in " + l.cgroup.Path()
	case l.id.Unit != "":
		what = "unit " + l.id.Unit + " in " + l.cgroup.Path()
	}
	why := "workload " + l.by + " matches it"
	if l.by == "tag" {
		why = "it is tagged"
	}
	if l.around {
		return fmt.Sprintf("%s: %s, but a cgroup below it is captured by itself: what else is in it is captured when that has ended, not before", what, why)
	}
	return fmt.Sprintf("%s: %s, but it runs since before: restart it", what, why)
}

// ownPlaces are the paths of the slice and of the keeper's cgroup, and the table
// after which the cgroups of `exec` are named.
type ownPlaces struct{ tagged, home, table string }

// ours reports whether what is at or below a path is sallyport's, or in its slice:
// it must never capture itself, and has captured the slice.
func (o ownPlaces) ours(path string) bool {
	if path == o.tagged || path == o.home {
		return true
	}
	name := strings.TrimPrefix(path, "/")
	if name == o.table+".slice" || strings.HasPrefix(name, o.table+"-"+execPrefix) || strings.HasPrefix(name, o.table+".keeper") {
		return true
	}
	base := path[strings.LastIndexByte(path, '/')+1:]
	return strings.HasPrefix(base, "sallyport") && strings.HasSuffix(base, ".service")
}

// mayTag reports whether a path could be tagged at all: not the root, nor what is
// above the slice or the keeper, nor the service manager's own.
func (o ownPlaces) mayTag(path string) bool {
	if path == "/" || path == "/init.scope" {
		return false
	}
	return !strings.HasPrefix(o.tagged, path+"/") && !strings.HasPrefix(o.home, path+"/")
}

// Late names what a configuration and the kept tags would capture outside of the
// slice and what runs since before, so that it is captured at its next start only.
// It needs no daemon. What only root sees is missing for others.
func Late(c *config.Config) ([]string, error) {
	engines, err := engine.New(engine.Sockets[:]...)
	if err != nil {
		return nil, err
	}
	tree, err := workload.FindTree()
	if errors.Is(err, workload.ErrNotSupported) {
		return nil, nil // nothing is captured on such a host
	} else if err != nil {
		return nil, err
	}
	defer tree.Close()
	r, err := workload.NewRegistry(entries(c), tree, engines)
	if err != nil {
		return nil, err
	}
	// Tags that cannot be read are the status's to tell.
	if tags, err := tag.StoreOf(c.StateDir).Tags(); err == nil {
		if err := r.SetNamed(tag.Named(tags)); err != nil {
			return nil, err
		}
	}
	if !r.ClaimsElsewhere() {
		return nil, nil
	}
	service := PlacesOf(c).Service()
	held, _ := readElsewhere(service, tree)
	root, err := tree.Cgroup("/")
	if err != nil {
		return nil, err
	}
	places := ownPlaces{service.Tagged, service.Home, service.Table}
	var lines []string
	_, err = byTurnsBelow([]workload.Cgroup{root}, maxClaimCgroups, func(t *turn) bool {
		cg := t.cgroup
		if places.ours(cg.Path()) {
			return false
		}
		if h, ok := held[cg.Path()]; ok && h.ID() == cg.ID() {
			return false
		}
		claim, ok := r.ClaimOf(cg.Path())
		if !ok || !places.mayTag(cg.Path()) {
			return true
		}
		populated, err := cg.Populated()
		if err == nil && populated {
			if id, err := r.Identify(cg.ID()); err == nil {
				late := lateCgroup{cgroup: cg, id: id, by: claim.By}
				lines = append(lines, late.String())
			}
		}
		return false
	})
	return lines, err
}

// CheckCgroup says why a path below the cgroup2 mount cannot be tagged.
func CheckCgroup(c *config.Config, path string) error {
	service := PlacesOf(c).Service()
	places := ownPlaces{service.Tagged, service.Home, service.Table}
	if path == places.tagged {
		return fmt.Errorf("cgroup %s is the slice: it is captured", path)
	}
	if places.ours(path) || !places.mayTag(path) {
		return fmt.Errorf("cgroup %s holds sallyport or its slice, or is the service manager's: it cannot be captured", path)
	}
	return nil
}
