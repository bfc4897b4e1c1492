package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/workload"
)

// handlers answer the worker. The worker may be in hostile hands: none of these
// opens the gate, starts a process, or names a file.
func (k *Keeper) handlers() map[string]wire.Handler {
	return map[string]wire.Handler{
		protocol.Identify: k.identify,
		protocol.Origin:   k.origin,
		protocol.Snapshot: k.snapshot,
		protocol.Rotate:   k.rotate,
		protocol.DialDNS:  k.dialDNS,
		protocol.Reopen: func(context.Context, *wire.Message) (any, []*os.File, error) {
			if k.audit == nil {
				return nil, nil, errNoAuditFile
			}
			return oneFile(k.audit.Descriptor())
		},
		protocol.Reload: func(context.Context, *wire.Message) (any, []*os.File, error) {
			return nil, nil, k.Reload()
		},
	}
}

// rotateSlack is how much below its limit a file may be when a worker asks for
// the next one: a batch of lines that no longer fits.
const rotateSlack = 4 << 20

// rotate puts a full audit file aside. One that is not full stays: a worker in
// hostile hands would push everything that it did out of the last file by asking
// again and again.
func (k *Keeper) rotate(context.Context, *wire.Message) (any, []*os.File, error) {
	if k.audit == nil {
		return nil, nil, errNoAuditFile
	}
	size, err := k.audit.Size()
	if err != nil {
		return nil, nil, err
	}
	if least := max(k.rotateAt.Load()-rotateSlack, 1); size < least {
		return nil, nil, fmt.Errorf("%w: it has %d bytes", errNotFull, size)
	}
	return oneFile(k.audit.Rotate())
}

var (
	errNoAuditFile = errors.New("no sink of the audit is a file")
	errNotFull     = errors.New("the audit file is not full")
)

func oneFile(f *os.File, err error) (any, []*os.File, error) {
	if err != nil {
		return nil, nil, err
	}
	return nil, []*os.File{f}, nil
}

// identify names the workload of a cgroup and, if asked, the executable of a
// process that is still in it.
func (k *Keeper) identify(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var in protocol.IdentifyArgs
	if err := m.Decode(&in); err != nil {
		return nil, nil, err
	}
	id, err := k.registry.Identify(in.Cgroup)
	if err != nil {
		return nil, nil, err
	}
	out := protocol.IdentifyResult{Identity: id}
	if in.Exe && in.PID != 0 {
		// The pid only informs; a process that has moved on is not shown at all.
		if p, err := workload.LookUp(int(in.PID)); err == nil {
			if path, err := k.gate.tree.Path(in.Cgroup); err == nil && path == p.Cgroup {
				out.Exe = p.Exe
			}
		}
	}
	return out, nil, nil
}

// snapshot reads the kernel's figures for metrics and status.
func (k *Keeper) snapshot(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var out protocol.SnapshotResult
	var err error
	if out.Flows, err = k.gate.data.Flows(); err != nil {
		return nil, nil, fmt.Errorf("flows: %w", err)
	}
	refusals, err := k.gate.data.Refusals()
	if err != nil {
		return nil, nil, fmt.Errorf("refusals: %w", err)
	}
	out.Refusals = make(map[string]uint64, len(refusals))
	for reason, n := range refusals {
		out.Refusals[reason.String()] = n
	}
	if out.EventsLost, err = k.gate.data.EventsLost(); err != nil {
		return nil, nil, fmt.Errorf("lost events: %w", err)
	}
	counters, err := k.gate.guard.Counters()
	if err != nil {
		return nil, nil, fmt.Errorf("guard: %w", err)
	}
	out.GuardRejected = counters.Rejected() + k.namespaces.rejectedPackets()
	resources, err := k.gate.data.Resources()
	if err != nil {
		return nil, nil, fmt.Errorf("resources: %w", err)
	}
	for _, r := range resources {
		out.Resources = append(out.Resources, protocol.Resource{Name: r.Name, Entries: int(r.Entries), Capacity: int(r.Capacity)})
	}
	for _, r := range k.gate.guard.Resources() {
		out.Resources = append(out.Resources, protocol.Resource{Name: r.Name, Entries: r.Entries, Capacity: r.Capacity})
	}
	for _, r := range slices.Concat(k.registry.Resources(), k.gate.tree.Resources(), k.engines.Resources()) {
		out.Resources = append(out.Resources, protocol.Resource{Name: r.Name, Entries: r.Entries, Capacity: r.Capacity})
	}
	out.Resources = append(append(out.Resources, k.resources()...), k.hostResources()...)
	out.Host = protocol.Host{Certificates: k.certificates(), ClockForward: k.clock.forward.Load(), ClockBack: k.clock.backward.Load()}
	if out.Workloads, out.Notes, err = k.workloads(); err != nil {
		return nil, nil, fmt.Errorf("workloads: %w", err)
	}
	if out.Living, err = k.living(); err != nil {
		return nil, nil, fmt.Errorf("workloads: %w", err)
	}
	return out, nil, nil
}

// resources are the keeper's own bounded things.
func (k *Keeper) resources() []protocol.Resource {
	directories, most := k.trust.Figures()
	k.health.mu.Lock()
	notes := len(k.health.notes)
	k.health.mu.Unlock()
	descriptors, mostDescriptors := k.foreignSockets().sweeper.Figures()
	return []protocol.Resource{
		{Name: "kernel_events", Entries: len(k.events), Capacity: eventQueue},
		{Name: "commands", Entries: k.callers.total(), Capacity: maxCommands},
		{Name: "trust_directories", Entries: directories, Capacity: most},
		{Name: "notices", Entries: notes, Capacity: notesMax},
		k.namespaces.resource(),
		{Name: "workload_descriptors", Entries: descriptors, Capacity: mostDescriptors},
	}
}

// living names every workload in which something runs; nil where there are more
// cgroups than are looked at.
func (k *Keeper) living() ([]string, error) {
	cgroups, cut, err := k.belowAll(maxDirectCgroups)
	if err != nil || len(cut) > 0 {
		return nil, err
	}
	names := []string{}
	for _, cg := range cgroups {
		if populated, err := cg.Populated(); err != nil || !populated {
			continue
		}
		if id, err := k.registry.Identify(cg.ID()); err == nil && !slices.Contains(names, id.Name) {
			names = append(names, id.Name)
		}
	}
	return names, nil
}
