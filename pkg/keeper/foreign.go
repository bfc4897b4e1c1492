package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/foreign"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/workload"
)

const (
	// The descriptors of tagged processes are looked at as often as a hundredth of
	// the time allows, but at least every foreignMost: a foreign connection lives no
	// longer than that and the look itself.
	foreignLeast = 300 * time.Millisecond
	foreignMost  = 700 * time.Millisecond
	foreignShare = 100
	// foreignPause is the least time before a look that a notice asks for, and
	// foreignHaste how much of the time such looks may take, a fiftieth: a workload
	// decides how many notices there are.
	foreignPause = 100 * time.Millisecond
	foreignHaste = 50
	// foreignWaiting bounds what was found and no worker has recorded yet.
	foreignWaiting = 1024
	// foreignTurn bounds one sweep of the loop: a workload that needs more goes on in
	// the next, so that it delays no other. foreignWhole is for who waits for a sweep
	// to be whole.
	foreignTurn  = 250 * time.Millisecond
	foreignWhole = 2 * time.Second
)

// foreignSockets looks for sockets that lead out although nothing of ours decided
// on them.
type foreignSockets struct {
	once    sync.Once
	sweeper *foreign.Sweeper
	prod    chan struct{}

	// reporting is held while a worker is told: who sweeps beside the loop reports
	// too, and what was told must be forgotten once.
	reporting sync.Mutex

	mu sync.Mutex
	// waiting is what no worker has recorded yet, lost what did not fit.
	waiting []protocol.Foreign
	lost    uint64
}

func (k *Keeper) foreignSockets() *foreignSockets {
	f := &k.foreign
	f.once.Do(func() {
		o := foreign.Options{Tree: k.gate.tree, Tagged: k.gate.below}
		if !k.gate.oneLock() {
			o.Decided = k.gate.data.Decides
		}
		f.sweeper, f.prod = foreign.New(o), make(chan struct{}, 1)
	})
	return f
}

// watchForeign looks again and again until ctx ends.
func (k *Keeper) watchForeign(ctx context.Context) error {
	f := k.foreignSockets()
	defer f.sweeper.Close()
	for {
		start := time.Now()
		var problems []string
		if _, err := k.sweepForeign(foreignTurn); err != nil && ctx.Err() == nil {
			problems = append(problems, err.Error())
		}
		for _, path := range f.sweeper.Beyond() {
			problems = append(problems, fmt.Sprintf("%s has more than %d descriptors or %d cgroups: what is beyond is ended; make it several workloads, or lower its LimitNOFILE=",
				path, foreign.MaxWork, foreign.MaxCgroups))
		}
		k.concern("foreign sockets", problems...)
		took := time.Since(start)
		k.reportForeign()
		rest := time.NewTimer(min(max(foreignLeast, foreignShare*took), foreignMost))
		least := time.NewTimer(min(max(foreignPause, foreignHaste*took), foreignMost))
		select {
		case <-ctx.Done():
			return nil
		case <-least.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		case <-f.prod:
		}
	}
}

// prodForeign asks for a look now: a tagged process was refused on a socket that
// came from outside, and may have others.
func (k *Keeper) prodForeign() {
	select {
	case k.foreignSockets().prod <- struct{}{}:
	default:
	}
}

// sweepForeign looks at the tagged processes, ends what is foreign, and has it
// audited. It gives what it found; an error says what it could not look at.
func (k *Keeper) sweepForeign(patience time.Duration) ([]foreign.Found, error) {
	shares, err := k.foreignShares()
	if err != nil {
		return nil, err
	}
	found, err := k.foreignSockets().sweeper.Sweep(shares, patience)
	for i := range found {
		k.keepForeign(&found[i])
	}
	return found, err
}

// foreignShares are the workloads as far as one must not be in another's way: what
// is directly below the slice, which root makes, and each cgroup that is tagged
// elsewhere.
func (k *Keeper) foreignShares() ([]foreign.Share, error) {
	var shares []foreign.Share
	for i, cg := range k.gate.taggedCgroups() {
		shares = append(shares, foreign.Share{Root: cg, Alone: i == 0})
		if i > 0 {
			continue
		}
		children, err := cg.Children()
		if err != nil && !errors.Is(err, workload.ErrGone) {
			return nil, err
		}
		for _, child := range children {
			shares = append(shares, foreign.Share{Root: child})
		}
	}
	return shares, nil
}

// keepForeign keeps a find until a worker has recorded it.
func (k *Keeper) keepForeign(found *foreign.Found) {
	in := protocol.Foreign{
		Time: time.Now(), Cgroup: found.Cgroup, PID: found.PID, UID: found.UID, Exe: found.Exe,
		Kind: found.Kind, Flow: found.Socket.Cookie, Outcome: string(found.Outcome),
	}
	if at := found.Socket.Remote; at.Addr().IsValid() && !at.Addr().IsUnspecified() {
		in.Dst = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	in.Listening = found.Socket.Listening()
	if path, err := k.gate.tree.Path(found.Socket.Cgroup); err == nil {
		in.Maker = path
	}
	in.Tagged = k.gate.below(found.Socket.Cgroup)
	if found.Err != nil {
		in.Error = found.Err.Error()
	}
	k.log.Warn("foreign socket", zap.String("kind", found.Kind), zap.Stringer("to", found.Socket.Remote), zap.Uint32("pid", found.PID),
		zap.String("exe", found.Exe), zap.String("made_in", in.Maker), zap.String("outcome", in.Outcome), zap.String("error", in.Error))
	f := k.foreignSockets()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) >= foreignWaiting {
		f.lost++
		return
	}
	f.waiting = append(f.waiting, in)
}

// reportForeign has a worker record what was found, if one serves.
func (k *Keeper) reportForeign() {
	k.mu.Lock()
	serving := k.serving
	k.mu.Unlock()
	f := k.foreignSockets()
	f.reporting.Lock()
	defer f.reporting.Unlock()
	f.mu.Lock()
	waiting, lost := f.waiting, f.lost
	f.mu.Unlock()
	if !serving || len(waiting) == 0 && lost == 0 {
		return
	}
	if err := k.tell(protocol.Kernel, protocol.KernelArgs{Foreign: waiting, Lost: lost}); err != nil {
		k.log.Warn("foreign sockets were not recorded yet", zap.Error(err))
		return
	}
	f.mu.Lock()
	f.waiting = append([]protocol.Foreign(nil), f.waiting[len(waiting):]...)
	f.lost -= lost
	f.mu.Unlock()
}

// below reports whether the cgroup with this id is tagged or below one that is.
func (g *gate) below(id uint64) bool {
	path, err := g.tree.Path(id)
	if err != nil {
		return false
	}
	return g.inside(path)
}
