package keeper

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
)

// watchInterval is how often both locks are compared with what they must be. A
// detached link sends no notice, so it has to be asked for.
const watchInterval = 500 * time.Millisecond

// notesMax bounds the sentences that wait for a worker to record them.
const notesMax = 256

// health is what the keeper knows about enforcement.
type health struct {
	mu sync.Mutex
	// probed says that a self-probe succeeded, and that nothing had to be repaired
	// since it began.
	probed bool
	// repairs counts comparisons that found something.
	repairs int
	// problems are those of the last comparison and probe.
	locks []string
	probe string
	// notes are lifecycle sentences that no worker has taken yet.
	notes []string
	// lost counts notes beyond notesMax.
	lost int
}

// watch compares and repairs both locks until ctx ends.
func (k *Keeper) watch(ctx context.Context) error {
	for range every(ctx, watchInterval, k.prod) {
		if err := k.sameCgroups(); err != nil {
			return err
		}
		found := k.gate.repair()
		k.compared.Store(time.Now().UnixNano())
		for _, f := range found {
			k.log.Warn("enforcement repaired", zap.String("problem", f))
			k.note("repaired: " + f)
		}
		k.health.mu.Lock()
		if len(found) > 0 {
			k.health.repairs++
			if k.health.probed {
				k.health.probed = false
				k.health.probe = "not proven again since something was repaired"
			}
			k.prodProbe()
		}
		changed := !slices.Equal(k.health.locks, found)
		k.health.locks = found
		changed = changed || len(k.health.notes) > 0
		k.health.mu.Unlock()
		if err := k.applyDirect(); err != nil {
			k.log.Error("direct rules", zap.Error(err))
			k.note("direct rules: " + err.Error())
		}
		if changed {
			k.prodReport()
		}
	}
	return nil
}

// prodReport has the worker told soon: it may hang, and whoever compares or
// proves must not wait for it.
func (k *Keeper) prodReport() {
	select {
	case k.reports <- struct{}{}:
	default:
	}
}

// reportLoop tells the worker until ctx ends.
func (k *Keeper) reportLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.reports:
			if k.report() {
				k.toldOnce.Do(func() { close(k.told) })
			}
		}
	}
}

// probeLoop proves enforcement now and then.
func (k *Keeper) probeLoop(ctx context.Context) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		if !k.waitServing(ctx) {
			return nil
		}
		k.health.mu.Lock()
		repairs := k.health.repairs
		k.health.mu.Unlock()
		k.mu.Lock()
		with := k.worker
		k.mu.Unlock()
		err := k.prober.probe(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !k.isReady() && !k.options.Apart {
			return err // never ready without proof
		}
		k.health.mu.Lock()
		was := k.health.probed
		if err != nil {
			k.health.probed, k.health.probe = false, err.Error()
		} else if k.health.repairs == repairs {
			k.health.probed, k.health.probe = true, ""
		}
		proven := k.health.probed && !was
		k.health.mu.Unlock()
		if err != nil {
			k.log.Error("self-probe failed", zap.Error(err))
			k.note(err.Error())
		} else {
			select {
			case <-ctx.Done():
				return nil
			case <-k.namespaces.looked:
			}
			k.mu.Lock()
			k.proven = with
			k.mu.Unlock()
			k.readyOnce.Do(func() { close(k.ready) })
			if proven {
				k.note("enforcement proven by the self-probe")
			}
		}
		k.prodReport()
		var again <-chan time.Time
		if err != nil {
			again = time.After(probeAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-again:
		case <-k.reprobe:
		}
	}
}

// prodProbe asks for a proof now instead of at the next tick.
func (k *Keeper) prodProbe() {
	select {
	case k.reprobe <- struct{}{}:
	default:
	}
}

// waitServing waits until a worker serves; false when ctx ended first.
func (k *Keeper) waitServing(ctx context.Context) bool {
	for {
		k.mu.Lock()
		serving := k.serving
		k.mu.Unlock()
		if serving {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// note keeps a lifecycle sentence for the audit until a worker has taken it.
func (k *Keeper) note(sentence string) {
	k.health.mu.Lock()
	defer k.health.mu.Unlock()
	if len(k.health.notes) >= notesMax {
		k.health.lost++
		return
	}
	k.health.notes = append(k.health.notes, sentence)
}

// healthArgs gives what is known now, without the notes.
func (k *Keeper) healthArgs() protocol.HealthArgs {
	k.mu.Lock()
	confErr, proven := k.configErr, k.proven != nil && k.proven == k.worker
	k.mu.Unlock()
	// First: who holds a namespace takes notes, and whoever holds the gate changes
	// namespaces.
	unproven, elsewhere := k.namespaces.unproven(), k.gate.taggedCgroups()[1:]
	k.health.mu.Lock()
	defer k.health.mu.Unlock()
	h := protocol.HealthArgs{
		EnforcementActive: k.health.probed && len(k.health.locks) == 0 && len(unproven) == 0,
		Ready:             k.isReady() && proven,
		Problems:          slices.Clone(k.health.locks),
		Locks:             k.gate.locks(),
	}
	if h.Locks < 2 {
		h.Problems = append(h.Problems, k.gate.oneLockProblem())
	}
	if k.health.probe != "" {
		h.Problems = append(h.Problems, k.health.probe)
	}
	h.Problems = append(h.Problems, unproven...)
	for _, err := range k.trust.Problems() {
		h.Problems = append(h.Problems, "trust: "+err.Error())
	}
	h.Problems = append(h.Problems, k.concerns.all()...)
	if confErr != nil {
		h.ConfigError = confErr.Error()
	}
	for _, cg := range elsewhere {
		h.Elsewhere = append(h.Elsewhere, cg.Path())
	}
	return h
}

// report tells the worker, which serves status and metrics and records the
// notes. What it did not take stays for the next time. It reports whether one has taken
// that all is ready.
func (k *Keeper) report() bool {
	k.reporting.Lock()
	defer k.reporting.Unlock()
	k.mu.Lock()
	w := k.worker
	k.mu.Unlock()
	if w == nil {
		return false
	}
	h := k.healthArgs()
	k.health.mu.Lock()
	h.Lifecycle = k.health.notes
	if k.health.lost > 0 {
		h.Lifecycle = append(h.Lifecycle, "more notices than could be kept were dropped")
	}
	taken, lost := len(k.health.notes), k.health.lost
	k.health.mu.Unlock()
	if err := k.tell(protocol.Health, h); err != nil {
		if !errors.Is(err, context.Canceled) {
			k.log.Debug("report", zap.Error(err))
		}
		return false
	}
	k.health.mu.Lock()
	k.health.notes = slices.Delete(k.health.notes, 0, taken)
	k.health.lost -= lost
	k.health.mu.Unlock()
	return h.Ready
}
