package keeper

import (
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"sallyport/pkg/workload"
)

// goHome moves the keeper into a cgroup of its own, unless a service manager
// made one for it already: sock_ops is attached where the listeners are made,
// and must not see every connection of the host.
func (g *gate) goHome() error {
	own, err := g.tree.OfProcess(os.Getpid())
	if err != nil {
		return fmt.Errorf("own cgroup: %w", err)
	}
	g.came = own
	if g.instance.Name == servicePrefix && own.Level() > 0 && os.Getenv("INVOCATION_ID") != "" {
		g.home, err = g.serviceHome(own)
		return err
	}
	if g.home, err = ensureCgroup(g.tree, g.instance.Home); err != nil {
		return fmt.Errorf("keeper's cgroup: %w", err)
	}
	if err := g.home.Move(0); err != nil {
		return fmt.Errorf("enter keeper's cgroup: %w", err)
	}
	return nil
}

// serviceHome gives the cgroup below which a service manager starts us: our slice.
// Our own cgroup is made anew at each start, but a listener belongs for life to
// the one in which it was made, and listeners outlive us in the descriptor store.
// Outside of our slice it is our own cgroup, and stored listeners are of no use.
func (g *gate) serviceHome(own workload.Cgroup) (workload.Cgroup, error) {
	slice := filepath.Dir(own.Path())
	if filepath.Base(slice) != g.instance.Slice() {
		g.log.Warn("not started in "+g.instance.Slice()+": connections that wait while this process restarts are refused", zap.String("cgroup", own.Path()))
		return own, g.store.Clear()
	}
	home, err := g.tree.Cgroup(slice)
	if err != nil {
		return home, fmt.Errorf("keeper's slice: %w", err)
	}
	return home, nil
}
