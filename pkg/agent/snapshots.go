package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy/pattern"
)

const (
	// snapshotAge is how old the kernel's figures may be that several collectors
	// of one page share.
	snapshotAge = 250 * time.Millisecond
	// snapshotTimeout bounds the question for them.
	snapshotTimeout = 5 * time.Second
)

// snapshots ask the keeper for the kernel's figures.
type snapshots struct {
	w *worker

	mu    sync.Mutex
	last  *protocol.SnapshotResult
	asked time.Time
}

func newSnapshots(w *worker) *snapshots { return &snapshots{w: w} }

func (s *snapshots) get() (*protocol.SnapshotResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && time.Since(s.asked) < snapshotAge {
		return s.last, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), snapshotTimeout)
	defer cancel()
	var r protocol.SnapshotResult
	if _, err := s.w.keeper.Call(ctx, protocol.Snapshot, nil, nil, &r); err != nil {
		return nil, err
	}
	s.last, s.asked = &r, time.Now()
	if r.Living != nil {
		s.w.metrics.Living(s.w.living(r.Living))
	}
	return s.last, nil
}

// living tells by their names which workloads run or have an entry.
func (w *worker) living(names []string) func(string) bool {
	entries := w.config.Load().names
	return func(name string) bool {
		return slices.Contains(names, name) || slices.ContainsFunc(entries, func(g pattern.Glob) bool { return g.Match(name) })
	}
}

// Refusals counts by the kernel's reason.
func (s *snapshots) Refusals() (map[string]uint64, error) {
	r, err := s.get()
	if err != nil {
		return nil, err
	}
	return r.Refusals, nil
}

// EventsLost counts what the kernel could not tell.
func (s *snapshots) EventsLost() (uint64, error) {
	r, err := s.get()
	if err != nil {
		return 0, err
	}
	return r.EventsLost, nil
}

// LiveFlows lists the open flows for the metrics.
func (s *snapshots) LiveFlows() ([]metrics.LiveFlow, error) {
	r, err := s.get()
	if err != nil {
		return nil, err
	}
	live := make([]metrics.LiveFlow, 0, len(r.Flows))
	for i := range r.Flows {
		f := &r.Flows[i]
		live = append(live, metrics.LiveFlow{
			Workload: s.w.nameOf(f.Cgroup), Leg: legOf(f.Kind),
			Sent: f.Totals.BytesSent, Received: f.Totals.BytesReceived, Retransmits: uint64(f.Totals.Retransmits),
		})
	}
	return live, nil
}

// RejectedPackets counts what the guard refused.
func (s *snapshots) RejectedPackets() (uint64, error) {
	r, err := s.get()
	if err != nil {
		return 0, err
	}
	return r.GuardRejected, nil
}

// resources are the bounded things of the keeper and the kernel.
func (s *snapshots) resources() []metrics.Resource {
	r, err := s.get()
	if err != nil {
		return nil
	}
	out := make([]metrics.Resource, len(r.Resources))
	for i, k := range r.Resources {
		out[i] = metrics.Resource{Name: k.Name, Entries: uint64(k.Entries), Capacity: uint64(k.Capacity)}
	}
	return out
}

// nameOf names a cgroup for figures, where an unknown one is counted with the
// others rather than left out.
func (w *worker) nameOf(cgroup uint64) string {
	id, err := w.identities.look(context.Background(), cgroup, 0)
	if err != nil {
		return metrics.OtherName
	}
	return id.Identity.Name
}
