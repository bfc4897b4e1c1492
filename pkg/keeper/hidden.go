package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
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

// hideRest is how many times as long as looking took nobody looks again: a workload
// decides how many processes and threads there are to look at.
const hideRest = 20

// hideAgain keeps hidden from running commands what must be, until ctx ends.
func (k *Keeper) hideAgain(ctx context.Context) error {
	pause := hideInterval
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		began := time.Now()
		for _, c := range k.running.list() {
			err := k.hideFrom(c)
			if err != nil && !c.exposed {
				k.log.Warn("sockets of the host may be visible to a command", zap.String("workload", c.id.Name), zap.Error(err))
				k.note("sockets of the host may be visible to workload " + c.id.Name + ": " + err.Error())
			}
			c.exposed = err != nil
		}
		k.hideFromUnits()
		pause = max(hideInterval, hideRest*time.Since(began))
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
	if len(cgroups) == maxDirectCgroups {
		errs = append(errs, fmt.Errorf("it has more than the %d cgroups that are looked at", maxDirectCgroups))
	}
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

// hideFromProcess does it for the mount namespaces of one process that were not
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
	found, err := mountNamespaces(pid, seen)
	defer func() { closeFiles(slices.Collect(maps.Values(found))) }()
	if err != nil {
		return err
	}
	// What was read by number was the process's if that still lives.
	if unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
		return nil
	}
	var errs []error
	for inode, ns := range found {
		seen[inode] = true
		// ErrNotConfined: it has not come that far.
		if err := confine.Renew(int(ns.Fd()), &c.plan.Spec); !errors.Is(err, confine.ErrNotConfined) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// mountNamespaces opens, by inode, those of a process's threads that were not seen
// yet: each thread may make its own, and the first may have ended (pthread_exit(3)
// in main) and show none while the process goes on. The caller closes them.
func mountNamespaces(pid int, seen map[uint64]bool) (map[uint64]*os.File, error) {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(tasks)
	if hasEnded(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	found := make(map[uint64]*os.File)
	for _, thread := range threads {
		path := tasks + "/" + thread.Name() + "/ns/mnt"
		info, err := os.Stat(path)
		if hasEnded(err) || err == nil && (seen[inodeOf(info)] || found[inodeOf(info)] != nil) {
			continue
		} else if err != nil {
			return found, err
		}
		ns, err := os.Open(path)
		if hasEnded(err) {
			continue
		} else if err != nil {
			return found, err
		}
		if info, err = ns.Stat(); err != nil {
			ns.Close()
			return found, err
		}
		if old := found[inodeOf(info)]; old != nil {
			old.Close()
		}
		found[inodeOf(info)] = ns
	}
	return found, nil
}

// hasEnded reports whether /proc says that a process or thread has ended.
func hasEnded(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func inodeOf(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
