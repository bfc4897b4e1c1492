package keeper

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/confine"
	"sallyport/pkg/workload"
)

// hideInterval is how often running commands are looked at: a resolver, bus or
// container engine that starts, or starts again, is in their sight for no longer.
// The kernel drops what is mounted over a socket when its server removes it.
const hideInterval = time.Second

// hideAgain keeps hidden from running commands what must be, until ctx ends.
func (k *Keeper) hideAgain(ctx context.Context) error {
	tick := time.NewTicker(hideInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, c := range k.running.list() {
			err := k.hideFrom(c)
			if err != nil && !c.exposed {
				k.log.Warn("sockets of the host may be visible to a command", zap.String("workload", c.id.Name), zap.Error(err))
				k.note("sockets of the host may be visible to workload " + c.id.Name + ": " + err.Error())
			}
			c.exposed = err != nil
		}
		k.hideFromUnits()
	}
}

// hideFrom looks at every mount namespace in which a process of the command
// lives: those that it makes itself take part in the host's changes too.
func (k *Keeper) hideFrom(c *command) error {
	cgroups, err := below(c.cgroup, maxDirectCgroups)
	if err != nil {
		return err
	}
	seen := make(map[uint64]bool)
	var errs []error
	for _, cg := range cgroups {
		pids, err := cg.Procs()
		if errors.Is(err, workload.ErrGone) {
			continue
		} else if err != nil {
			return err
		}
		for _, pid := range pids {
			errs = append(errs, k.hideFromProcess(c, pid, seen))
		}
	}
	return errors.Join(errs...)
}

// hideFromProcess does it for the mount namespace of one process, unless that was
// seen already. A process that ends meanwhile, or is none of the command's, is
// passed over: its number may be another's by now.
func (k *Keeper) hideFromProcess(c *command, pid int, seen map[uint64]bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	at, err := k.gate.tree.OfProcess(pid)
	if err != nil || at.Path() != c.cgroup.Path() && !strings.HasPrefix(at.Path(), c.cgroup.Path()+"/") {
		return nil
	}
	ns, err := mountNamespace(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || seen[ns] {
		return nil
	} else if err != nil {
		return err
	}
	// What was read by number was the process's if that still lives.
	if unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
		return nil
	}
	seen[ns] = true
	err = confine.Renew(fd, &c.plan.Spec)
	if errors.Is(err, confine.ErrNotConfined) || errors.Is(err, unix.ESRCH) {
		return nil // it has not come that far, or has ended
	}
	return err
}

// mountNamespace is the number of a process's mount namespace.
func mountNamespace(pid int) (uint64, error) {
	info, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}
