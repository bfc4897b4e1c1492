package keeper

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/systemd"
	"sallyport/pkg/workload"
)

// scopes reports whether cgroups below the slice are made by systemd: it has only
// one writer, and takes away what it does not know (systemd.io/CGROUP_DELEGATION).
func (k *Keeper) scopes() bool {
	return k.options.Instance.Name == servicePrefix && systemd.Available()
}

// startScope has systemd make a scope in the slice around processes, and gives its
// cgroup.
func (k *Keeper) startScope(ctx context.Context, s systemd.Scope) (workload.Cgroup, error) {
	m, err := systemd.Connect(ctx)
	if err != nil {
		return workload.Cgroup{}, err
	}
	defer m.Close()
	s.Slice = filepath.Base(k.gate.tagged.Path())
	if err := m.StartScope(ctx, s); err != nil {
		return workload.Cgroup{}, err
	}
	cg, err := k.gate.tree.Cgroup(filepath.Join(k.gate.tagged.Path(), s.Name))
	if err != nil {
		return cg, fmt.Errorf("scope %s: %w", s.Name, err)
	}
	return cg, nil
}

// scoped reports whether systemd has the cgroup2 hierarchy to itself, so that what
// an `exec` needs of it must be asked for. On a hybrid host it tracks units in a
// hierarchy of its own, and leaves plain cgroups of cgroup2 alone.
func scoped() bool {
	var st unix.Statfs_t
	return systemd.Available() && unix.Statfs(unifiedMount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// unifiedMount is where systemd mounts cgroup2 where there is no other hierarchy.
const unifiedMount = "/sys/fs/cgroup"

// enterScope has systemd put this process, the keeper of an `exec`, into the scope
// of its instance, which is delegated: all cgroups of the instance are made in it,
// systemd leaves them alone, and it removes the scope with its last process.
// Without a scope there is nothing to do.
func (i Instance) enterScope(ctx context.Context) error {
	if i.Scope == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, scopeTimeout)
	defer cancel()
	m, err := systemd.Connect(ctx)
	if err != nil {
		return fmt.Errorf("scope %s: %w", i.Scope, err)
	}
	defer m.Close()
	err = m.StartScope(ctx, systemd.Scope{
		Name: i.Scope, Description: "sallyport " + i.person(), Slice: rootSlice, PIDs: []int{os.Getpid()}, Delegate: true,
	})
	if err != nil {
		return err
	}
	tree, err := workload.FindTree()
	if err != nil {
		return err
	}
	defer tree.Close()
	own, err := tree.OfProcess(os.Getpid())
	if err != nil {
		return fmt.Errorf("scope %s: %w", i.Scope, err)
	}
	if own.Path() != filepath.Dir(i.Tagged) {
		// Then the cgroups would be made where systemd expects none.
		return fmt.Errorf("scope %s: systemd put this process into %s", i.Scope, own.Path())
	}
	return nil
}

// rootSlice is the slice above all others (systemd.special(7)).
const rootSlice = "-.slice"

// scopePrefix begins the names of the scopes that systemd makes for us.
const scopePrefix = "sallyport-"

// commandPath is the cgroup of a command of the daemon's.
func (k *Keeper) commandPath(name string) string {
	if k.scopes() {
		name = scopePrefix + name + ".scope"
	}
	return filepath.Join(k.options.Instance.Tagged, name)
}

// makeCommandCgroup makes the cgroup of a command. A scope needs a process from its
// beginning: a holder, which ends when the command's is there.
func (k *Keeper) makeCommandCgroup(path string) (cg workload.Cgroup, h *holder, err error) {
	switch {
	case path == k.options.Instance.Command():
		// That of a standalone exec is there already; the instance is locked, so
		// it is ours and empty.
		cg, err = ensureCgroup(k.gate.tree, path)
	case !k.scopes():
		cg, err = k.gate.tree.Create(path)
	default:
		if h, err = startHolder(); err != nil {
			return cg, nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), scopeTimeout)
		defer cancel()
		cg, err = k.startScope(ctx, systemd.Scope{
			Name: filepath.Base(path), Description: "a command of sallyport exec", PIDs: []int{h.cmd.Process.Pid},
		})
		if err != nil {
			h.release()
			h = nil
		}
	}
	return cg, h, err
}

// scopeTimeout bounds how long systemd may take for a scope.
const scopeTimeout = 10 * time.Second

// A holder is a process that does nothing but be in a scope, until release or the
// keeper's end.
type holder struct {
	cmd   *exec.Cmd
	input io.Closer
}

func startHolder() (*holder, error) {
	cmd := exec.Command(self, Internal, InternalHold)
	cmd.Args[0] = "sallyport"
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start holder of a scope: %w", err)
	}
	return &holder{cmd, input}, nil
}

// release ends the holder; a nil one, or one that was released, is none.
func (h *holder) release() {
	if h == nil || h.input == nil {
		return
	}
	h.input.Close()
	h.input = nil
	h.cmd.Wait()
}

// Hold is the holding process: it waits for the end of its input.
func Hold(stdin io.Reader) { io.Copy(io.Discard, stdin) }
