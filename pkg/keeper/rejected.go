package keeper

import (
	"context"
	"maps"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
)

// reportRejections looks at the guard's counters until ctx ends. It is apart from
// watch: the worker may hang, and a workload decides when there is something to
// tell, so whoever repairs must not wait for either.
func (k *Keeper) reportRejections(ctx context.Context) error {
	for range every(ctx, watchInterval, nil) {
		k.reportRejected()
	}
	return nil
}

// reportRejected tells the worker what the guard rejected since the last time,
// for the audit. While no worker serves it adds up.
func (k *Keeper) reportRejected() {
	k.mu.Lock()
	serving := k.serving
	k.mu.Unlock()
	if !serving {
		return
	}
	counters, err := k.gate.guard.Counters()
	if err != nil {
		k.log.Warn("guard counters", zap.Error(err))
		return
	}
	news := newlyRejected(counters.Cgroups, k.rejectedSeen, k.prober.cgroup.ID())
	for _, in := range newlyRejected(counters.InboundCgroups, k.droppedSeen, k.prober.cgroup.ID()) {
		in.Inbound = true
		news = append(news, in)
	}
	if len(news) > 0 {
		if err := k.tell(protocol.Kernel, protocol.KernelArgs{Rejected: news}); err != nil {
			k.log.Warn("rejected packets were not recorded", zap.Error(err))
			return
		}
	}
	k.rejectedSeen, k.droppedSeen = maps.Clone(counters.Cgroups), maps.Clone(counters.InboundCgroups)
}

// newlyRejected compares two readings. What the self-probe made the guard reject
// is no news.
func newlyRejected(now, seen map[uint64]uint64, probe uint64) []protocol.Rejected {
	var news []protocol.Rejected
	for cgroup, n := range now {
		if cgroup != probe && n > seen[cgroup] {
			news = append(news, protocol.Rejected{Cgroup: cgroup, Packets: n - seen[cgroup]})
		}
	}
	return news
}
