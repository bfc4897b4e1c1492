package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/datapath"
	"sallyport/pkg/guard"
	"sallyport/pkg/workload"
)

// shutTimeout bounds how long Shut waits for a keeper that runs.
const shutTimeout = 20 * time.Second

// Shut shuts the gate of an instance and leaves it shut: programs and table
// without listeners, so that whatever runs in the tagged cgroup reaches nothing. A
// keeper takes over what it made. What one made before stays as it is; while one
// runs, Shut only waits until the gate is shut.
func Shut(ctx context.Context, i Instance, log *zap.Logger) error {
	tree, err := workload.FindTree()
	if err != nil {
		return err
	}
	defer tree.Close()
	ctx, cancel := context.WithTimeout(ctx, shutTimeout)
	defer cancel()
	for {
		lock, err := i.Lock()
		if err == nil {
			return shut(i, tree, lock, log)
		}
		if !errors.Is(err, ErrRunning) {
			return err
		}
		// Whoever has the lock makes the same gate.
		if err = isShut(i, tree); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, and it has not shut the gate: %w", ErrRunning, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// shut does it as a keeper would, and gives everything back but the pins and the
// table.
func shut(i Instance, tree *workload.Tree, lock *os.File, log *zap.Logger) (err error) {
	g := &gate{instance: i, tree: tree, lock: lock, log: log}
	defer func() {
		g.tree = nil // our caller's
		g.release()
		if err != nil {
			if missing := Missing(); missing != nil {
				err = fmt.Errorf("this host cannot be guarded: %w (%w); sallyport doctor says more", missing, err)
			}
		}
	}()
	if err := g.goHome(); err != nil {
		return err
	}
	defer g.comeBack()
	if g.tagged, err = ensureCgroup(tree, i.Tagged); err != nil {
		return fmt.Errorf("tagged cgroup: %w", err)
	}
	// Neither lock needs the other: one that fails leaves the other.
	return errors.Join(g.loadOrCapture(g.captures()), g.shutGuard())
}

// shutGuard makes the table without listeners. Elements of a keeper that is not
// there at the moment stay: its listeners may be.
func (g *gate) shutGuard() error {
	var err error
	if g.guard, err = guard.New(guard.Options{Table: g.instance.Table}); err != nil {
		return err
	}
	g.state.Tagged = g.withTagged(nil)
	if err := g.guard.Adopt(g.state); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// comeBack leaves the keeper's cgroup again where it was entered.
func (g *gate) comeBack() {
	if g.home.ID() == g.came.ID() || os.Getenv("INVOCATION_ID") != "" {
		return
	}
	if err := g.came.Move(0); err != nil {
		g.log.Warn("leave keeper's cgroup", zap.Error(err))
	}
}

// isShut reports whether both locks hold the tagged cgroup as it is now, made if
// it is missing.
func isShut(i Instance, tree *workload.Tree) error {
	tagged, err := ensureCgroup(tree, i.Tagged)
	if err != nil {
		return fmt.Errorf("tagged cgroup: %w", err)
	}
	g, err := guard.New(guard.Options{Table: i.Table})
	if err != nil {
		return err
	}
	defer g.Close()
	cgroup := guard.Cgroup{ID: tagged.ID(), Level: tagged.Level()}
	if (&gate{instance: i}).captures() {
		return g.Lists(cgroup) // how it captures only the keeper knows
	}
	if err := datapath.Guards(tagged.Dir()); err != nil {
		return err
	}
	return g.Holds(guard.State{Tagged: []guard.Cgroup{cgroup}})
}
