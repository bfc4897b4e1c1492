package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/guard"
	"sallyport/pkg/workload"
)

// abandonTimeout bounds how long giving up an instance may take.
const abandonTimeout = 5 * time.Second

// abandon gives up an instance that could not be set up. The service's gate stays
// as shut as it got. Nothing stays of an `exec`, behind which nothing has run, nor
// of a service that no lock can serve on this host and nobody was tagged for.
func (g *gate) abandon(impossible bool) {
	if g.lock == nil || g.instance.Name == servicePrefix && !(impossible && g.first) {
		g.release()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	if err := g.remove(ctx); err != nil {
		g.log.Warn("leftovers of a gate that could not be set up", zap.Error(err))
	}
}

// remove takes the gate away with everything that it added to the host. Nothing
// may run in the tagged cgroup any more.
func (g *gate) remove(ctx context.Context) error {
	g.unlisten()
	// Out of our own cgroup first: a populated one cannot be removed.
	if g.home.ID() != g.came.ID() {
		if err := g.came.Move(0); err != nil {
			g.log.Warn("leave keeper's cgroup", zap.Error(err))
		}
	}
	err := dismantle(ctx, g.instance, g.tree)
	g.release()
	return err
}

// dismantle removes everything of an instance that can exist, by name. It
// works for a living instance and for what a killed one left. The tagged cgroup
// goes first: if something still runs in it, nothing else is touched.
func dismantle(ctx context.Context, i Instance, tree *workload.Tree) error {
	if err := removeCgroup(ctx, tree, i.Tagged); err != nil {
		return err
	}
	var errs []error
	// A link without a pin or a descriptor is detached by the kernel.
	for _, pins := range []string{i.Pins, outdated(i.Pins)} {
		if err := os.RemoveAll(pins); err != nil {
			errs = append(errs, fmt.Errorf("bpf: %w", err))
		}
	}
	g, err := guard.New(guard.Options{Table: i.Table})
	if err == nil {
		err = g.Delete()
		g.Close()
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("guard: %w", err))
	}
	if err := removeCgroup(ctx, tree, i.Home); err != nil {
		errs = append(errs, err)
	}
	if err := os.RemoveAll(i.Runtime); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, withHostLock(filepath.Dir(i.Runtime), func() error {
		defer releaseRuntime(filepath.Dir(i.Runtime))
		return releaseBPFFS(filepath.Dir(i.Pins))
	}))
	return errors.Join(errs...)
}

func removeCgroup(ctx context.Context, tree *workload.Tree, path string) error {
	cg, err := tree.Cgroup(path)
	if errors.Is(err, workload.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return cg.Remove(ctx)
}
