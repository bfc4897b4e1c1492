package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// startWatcher starts the process that cleans up after a killed keeper.
func (s *standalone) startWatcher() error {
	c := s.keeper.config
	cmd := exec.Command(self, Internal, InternalWatch, c.RuntimeDir, c.BPFDir, c.NFTTable, c.Slice, s.keeper.options.Instance.Name)
	cmd.Args[0] = "sallyport"
	cmd.Dir = "/"
	cmd.Env = []string{}
	// Outside the keeper's cgroup: it ends whatever is left in there.
	dir, err := s.keeper.gate.came.Open()
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start watcher: %w", err)
	}
	s.watcher, s.goodbye = cmd, in
	return nil
}

// Watch is the watching process: it waits for the end of its keeper and, if that
// did not say goodbye, ends what runs in the instance and removes it.
func Watch(stdin io.Reader, args []string) error {
	if len(args) != 5 {
		return errors.New("watch: want runtime directory, bpf directory, table, slice and instance")
	}
	places := Places{RuntimeDir: args[0], BPFDir: args[1], Table: args[2], Slice: args[3], Scopes: scoped()}
	// systemd asks everybody in a scope to end who is to be stopped. Whoever else
	// ends on that, this process sees to what is left.
	signal.Ignore(unix.SIGTERM, unix.SIGHUP)
	said, _ := io.ReadAll(io.LimitReader(stdin, 16))
	if string(said) == "done" {
		return nil
	}
	found, err := places.Execs()
	if err != nil {
		return err
	}
	for _, i := range found {
		if i.Name == args[4] {
			ctx, cancel := context.WithTimeout(context.Background(), dyingTime)
			defer cancel()
			return sweep(ctx, i, dyingTime)
		}
	}
	return nil
}

// Sweep removes what killed `exec` instances left: their keeper is dead, so
// nothing of theirs works any more, and what still runs in them is ended.
func (p Places) Sweep(ctx context.Context) error {
	found, err := p.Execs()
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range found {
		if err := sweep(ctx, i, 0); err != nil && !errors.Is(err, ErrRunning) {
			errs = append(errs, fmt.Errorf("%s: %w", i.Name, err))
		}
	}
	return errors.Join(errs...)
}

// dyingTime bounds how long what a keeper leaves is waited for that is just ending: the
// kernel closes its descriptors one after the other, and the lock may be the last.
const dyingTime = 30 * time.Second

// sweep removes one instance of `exec` whose keeper is dead; ErrRunning if it is not
// within that time.
func sweep(ctx context.Context, i Instance, within time.Duration) error {
	lock, err := i.lockSoon(within)
	if err != nil {
		return err
	}
	defer lock.Close()
	tree, err := workload.FindTree()
	if err != nil {
		return err
	}
	defer tree.Close()
	cg, err := tree.Cgroup(i.Tagged)
	if err == nil {
		err = cg.Kill(ctx)
	}
	if err != nil && !errors.Is(err, workload.ErrGone) {
		return err
	}
	// A worker or prober that outlived its keeper sits in the home cgroup.
	if home, err := tree.Cgroup(i.Home); err == nil {
		if err := home.Kill(ctx); err != nil {
			return err
		}
	}
	return dismantle(ctx, i, tree)
}
