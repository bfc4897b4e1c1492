package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/workload"
)

// A BusyError names what still runs behind the gate.
type BusyError struct {
	// Processes are lines for a person: pid, name, cgroup.
	Processes []string
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%d processes still run in tagged cgroups: stop them, or use --stop", len(e.Processes))
}

// trustDir is the name of the shared trust directory below state_dir.
const trustDir = "trust"

// maxNamed bounds the processes that a BusyError names.
const maxNamed = 50

// teardownTimeout bounds how long processes may take to end.
const teardownTimeout = 10 * time.Second

// Teardown removes the service's instance and every dead `exec` instance: links,
// maps, table, cgroups, mounts, trust files and the certificate authority that
// nobody trusts any more. It returns ErrRunning while the daemon or an exec
// runs, and a *BusyError, having changed nothing, while something runs in a
// tagged cgroup; with stop that is ended first.
func Teardown(ctx context.Context, c *config.Config, stop bool) error {
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	tree, err := workload.FindTree()
	if err != nil {
		return err
	}
	defer tree.Close()
	places := PlacesOf(c)
	instances, err := places.Execs()
	if err != nil {
		return err
	}
	instances = append(instances, places.Service())
	var locks []*os.File
	defer func() { closeFiles(locks) }()
	for _, i := range instances {
		lock, err := i.LockSoon()
		if err != nil {
			if errors.Is(err, ErrRunning) {
				return fmt.Errorf("%w: stop it first", err)
			}
			return err
		}
		locks = append(locks, lock)
	}
	if err := vacate(ctx, tree, instances, stop); err != nil {
		return err
	}
	var errs []error
	for _, i := range instances {
		if err := dismantle(ctx, i, tree); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", i.Name, err))
		}
	}
	return errors.Join(append(errs, removeTables(instances), removeState(c))...)
}

// vacate makes sure that nothing runs behind any of the gates.
func vacate(ctx context.Context, tree *workload.Tree, instances []Instance, stop bool) error {
	busy := &BusyError{}
	var tagged []workload.Cgroup
	for _, i := range instances {
		cg, err := tree.Cgroup(i.Tagged)
		if err == nil {
			tagged = append(tagged, cg)
		} else if !errors.Is(err, workload.ErrGone) {
			return err
		}
		elsewhere, err := readElsewhere(i, tree)
		if err != nil {
			return err
		}
		for _, cg := range elsewhere {
			tagged = append(tagged, cg)
		}
	}
	for _, cg := range tagged {
		if stop {
			if err := cg.Kill(ctx); err != nil {
				return err
			}
			continue
		}
		populated, err := cg.Populated()
		if err != nil {
			return err
		}
		if populated {
			busy.add(cg)
		}
	}
	if len(busy.Processes) > 0 {
		return busy
	}
	return nil
}

// add names the processes of a cgroup and of all below it.
func (e *BusyError) add(cg workload.Cgroup) {
	all, err := below(cg, maxDirectCgroups)
	if err != nil {
		e.Processes = append(e.Processes, cg.Path()+": "+err.Error())
		return
	}
	for _, c := range all {
		pids, err := c.Procs()
		if err != nil {
			continue
		}
		for _, pid := range pids {
			if len(e.Processes) >= maxNamed {
				return
			}
			name := "?"
			if p, err := workload.LookUp(pid); err == nil {
				name = p.Comm
			}
			e.Processes = append(e.Processes, strconv.Itoa(pid)+" "+name+" in "+c.Path())
		}
	}
}

// removeState removes the certificate authority, the trust files and the counters
// of rate limits. Other files below state_dir, and the audit, are the operator's.
func removeState(c *config.Config) error {
	errs := []error{
		ca.RemoveRoot(c.TLS.CADir),
		os.RemoveAll(filepath.Join(c.StateDir, trustDir)), os.RemoveAll(filepath.Join(c.StateDir, countersFile)),
	}
	for _, dir := range []string{c.StateDir, c.RuntimeDir} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
