package keeper

import (
	"errors"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/workload"
)

// Busy returns a *BusyError where something runs behind the service's gate,
// whether or not a daemon does. The daemon's self-probe does not count.
func Busy(c *config.Config) error {
	tree, err := workload.FindTree()
	if err != nil {
		return err
	}
	defer tree.Close()
	service := PlacesOf(c).Service()
	var tagged []workload.Cgroup
	cg, err := tree.Cgroup(service.Tagged)
	if err == nil {
		tagged = append(tagged, cg)
	} else if !errors.Is(err, workload.ErrGone) {
		return err
	}
	elsewhere, err := readElsewhere(service, tree)
	if err != nil {
		return err
	}
	for _, cg := range elsewhere {
		tagged = append(tagged, cg)
	}
	busy := &BusyError{}
	for _, cg := range tagged {
		busy.add(cg)
	}
	kept := busy.Processes[:0]
	for _, p := range busy.Processes {
		if !strings.HasSuffix(p, " in "+service.ProbeCgroup()) {
			kept = append(kept, p)
		}
	}
	if busy.Processes = kept; len(kept) > 0 {
		return busy
	}
	return nil
}
