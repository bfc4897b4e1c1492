package agent

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/metrics"
	"sallyport/pkg/origin"
	"sallyport/pkg/workload"
)

const (
	// identityEntries bounds the processes that are remembered. When full, the
	// one unused for longest is asked for again.
	identityEntries = 8192
	// identityAge is how long a process is remembered. It may call execve
	// meanwhile: the executable only informs. The workload cannot change: a cgroup
	// id is never used twice.
	identityAge = time.Second
	// identifyTimeout bounds a question to the keeper. Whoever it is about loses a
	// connection without an answer, and on a starved host that comes late: a keeper
	// that has gone is noticed at once.
	identifyTimeout = 30 * time.Second
)

// identities ask the keeper who a cgroup is.
type identities struct {
	keeper *wire.Peer
	known  *lru.Cache[identityKey, identity]
	// asking has one question about a process go out, however many connections of
	// it wait: a worker that starts finds a queue of them.
	asking singleflight.Group
}

type identityKey struct {
	cgroup uint64
	pid    uint32
}

type identity struct {
	protocol.IdentifyResult
	asked time.Time
}

func newIdentities(keeper *wire.Peer) (*identities, error) {
	known, err := lru.New[identityKey, identity](identityEntries)
	if err != nil {
		return nil, err
	}
	return &identities{keeper: keeper, known: known}, nil
}

// Identify names the workload of a flow. Without an answer the flow must be
// closed: nobody would know whose it was.
func (i *identities) Identify(ctx context.Context, flow *origin.Flow) (workload.Identity, string, error) {
	r, err := i.look(ctx, flow.Cgroup, flow.PID)
	return r.Identity, r.Exe, err
}

func (i *identities) look(ctx context.Context, cgroup uint64, pid uint32) (protocol.IdentifyResult, error) {
	key := identityKey{cgroup, pid}
	if k, ok := i.known.Get(key); ok && time.Since(k.asked) < identityAge {
		return k.IdentifyResult, nil
	}
	answer := i.asking.DoChan(fmt.Sprint(cgroup, "/", pid), func() (any, error) {
		// Not of one connection alone: that may end, and others go on waiting.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), identifyTimeout)
		defer cancel()
		var r protocol.IdentifyResult
		if _, err := i.keeper.Call(ctx, protocol.Identify, protocol.IdentifyArgs{Cgroup: cgroup, PID: pid, Exe: pid != 0}, nil, &r); err != nil {
			return r, err
		}
		i.known.Add(key, identity{r, time.Now()})
		return r, nil
	})
	select {
	case a := <-answer:
		return a.Val.(protocol.IdentifyResult), a.Err
	case <-ctx.Done():
		return protocol.IdentifyResult{}, ctx.Err()
	}
}

// forget makes names be asked for again, after a reload.
func (i *identities) forget() { i.known.Purge() }

func (i *identities) resources() []metrics.Resource {
	return []metrics.Resource{{Name: "identities", Entries: uint64(i.known.Len()), Capacity: identityEntries}}
}
