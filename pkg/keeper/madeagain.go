package keeper

import (
	"errors"
	"fmt"
	"time"

	"sallyport/pkg/workload"
)

// ErrMadeAgain ends Run when the tagged cgroup, or the self-probe's, was removed. A
// cgroup made again under its name is another one, with nothing of ours on it:
// whoever started the Keeper starts another one at once, which tags what is there.
// A service manager has the lock unit shut the gate around the new slice before
// anything is in it.
var ErrMadeAgain = errors.New("removed since it was tagged; starting anew")

// sameCgroups makes sure that what was tagged at the start is still there.
func (k *Keeper) sameCgroups() error {
	for _, cg := range []workload.Cgroup{k.gate.tagged, k.prober.cgroup} {
		now, err := k.gate.tree.Cgroup(cg.Path())
		if errors.Is(err, workload.ErrGone) || err == nil && now.ID() != cg.ID() {
			k.note("the cgroup " + cg.Path() + " was removed since it was tagged: starting anew")
			k.sayFarewell()
			return fmt.Errorf("cgroup %s: %w", cg.Path(), ErrMadeAgain)
		}
	}
	return nil
}

// farewell is how long the last notice may take to reach the worker. Nothing guards
// the new cgroup meanwhile.
const farewell = 100 * time.Millisecond

// sayFarewell has the worker record the last notice, if it does so at once.
func (k *Keeper) sayFarewell() {
	told := make(chan struct{})
	k.aside.Go(func() {
		k.report()
		close(told)
	})
	select {
	case <-told:
	case <-time.After(farewell):
	}
}
