package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep Kill and Remove go below a cgroup.
const maxDepth = 64

// retryEvery is how often Kill and Remove look again while processes end.
const retryEvery = 2 * time.Millisecond

// Kill ends every process of the cgroup and of all below it with SIGKILL. It
// returns once the signals are sent; Remove waits. Before 5.14, which has no
// cgroup.kill, the cgroup is frozen, so that nothing can fork, and signalled
// until it is empty or ctx ends.
func (c Cgroup) Kill(ctx context.Context) error {
	err := c.write("cgroup.kill", "1")
	if err == nil || errors.Is(err, ErrGone) {
		return nil
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("kill cgroup %s: %w", c.path, err)
	}
	return c.killFrozen(ctx)
}

// killFrozen is Kill without cgroup.kill. SIGKILL ends frozen tasks of cgroup2.
func (c Cgroup) killFrozen(ctx context.Context) error {
	if err := c.write("cgroup.freeze", "1"); err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("freeze cgroup %s: %w", c.path, err)
	}
	for {
		if err := c.signalAll(maxDepth); err != nil {
			return err
		}
		populated, err := c.Populated()
		if errors.Is(err, ErrGone) {
			return nil
		}
		if err != nil {
			return err
		}
		if !populated {
			return c.write("cgroup.freeze", "0")
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("kill cgroup %s: processes remain: %w", c.path, err)
		}
	}
}

func (c Cgroup) signalAll(depth int) error {
	if depth == 0 {
		return fmt.Errorf("cgroup %s: more than %d levels deep", c.path, maxDepth)
	}
	pids, err := c.Procs()
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	for _, pid := range pids {
		// 0 would be the caller's own process group: a process of a pid
		// namespace that this one cannot see.
		if pid == 0 {
			return fmt.Errorf("cgroup %s holds a process of another pid namespace", c.path)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	children, err := c.Children()
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	for _, child := range children {
		if err := child.signalAll(depth - 1); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes away the cgroup and all below it, children first, and waits
// for processes that still end until ctx does. It kills nothing: a cgroup in
// which something lives on stays, and the error wraps ctx's. A cgroup that is
// gone already is no error.
func (c Cgroup) Remove(ctx context.Context) error {
	if c.path == "/" {
		return errors.New("the root cgroup cannot be removed")
	}
	for {
		err := c.removeTree(maxDepth)
		if err == nil || errors.Is(err, ErrGone) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		if stop := pause(ctx); stop != nil {
			return fmt.Errorf("%w: %w", err, stop)
		}
	}
}

func (c Cgroup) removeTree(depth int) error {
	if depth == 0 {
		return fmt.Errorf("cgroup %s: more than %d levels deep", c.path, maxDepth)
	}
	children, err := c.Children()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := child.removeTree(depth - 1); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	if err := unix.Unlinkat(int(c.tree.root.Fd()), relative(c.path), unix.AT_REMOVEDIR); err != nil {
		return pathError("remove cgroup", c.path, err)
	}
	return nil
}

// pause waits a moment, or says why it must not.
func pause(ctx context.Context) error {
	t := time.NewTimer(retryEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
