package keeper

import (
	"context"
	"fmt"
	"path/filepath"

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
