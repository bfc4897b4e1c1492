package keeper

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

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
