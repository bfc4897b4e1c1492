package keeper

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// setWorker says which worker serves; nil for none.
func (k *Keeper) setWorker(w *process) {
	k.mu.Lock()
	k.worker, k.serving = w, w != nil
	k.mu.Unlock()
	if w == nil {
		return
	}
	k.prodWatch()
	// What was proven was proven with another worker.
	k.prodProbe()
}

// addLiving counts a connected worker; false where there are too many.
func (k *Keeper) addLiving(w *process) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.workers) >= maxWorkers {
		return false
	}
	k.workers = append(k.workers, w)
	return true
}

func (k *Keeper) removeLiving(w *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.workers = slices.DeleteFunc(k.workers, func(o *process) bool { return o == w })
}

// draining gives the workers that have left and still live.
func (k *Keeper) draining() []*process {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*process
	for _, w := range k.workers {
		if w != k.worker && w.hasLeft() {
			all = append(all, w)
		}
	}
	return all
}

// tellDraining calls a method of every worker that drains. Each has the time of
// the others: one that does not answer holds up nobody else's news for longer.
func (k *Keeper) tellDraining(method string, args any) {
	for _, w := range k.draining() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if _, err := w.peer.Call(ctx, method, args, nil, nil); err != nil {
			k.log.Debug("a worker that drains was not told", zap.String("method", method), zap.Error(err))
		}
		cancel()
	}
}

// tellOthers calls a method of every worker but one.
func (k *Keeper) tellOthers(but *process, method string) {
	k.mu.Lock()
	others := slices.Clone(k.workers)
	k.mu.Unlock()
	for _, w := range others {
		if w == but {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if _, err := w.peer.Call(ctx, method, nil, nil, nil); err != nil {
			k.log.Debug("a worker was not told", zap.String("method", method), zap.Error(err))
		}
		cancel()
	}
}

// handlersOf answer a worker that is a service of its own.
func (k *Keeper) handlersOf(w *process) map[string]wire.Handler {
	all := k.handlers()
	all[protocol.Rotate] = func(ctx context.Context, m *wire.Message) (any, []*os.File, error) {
		result, files, err := k.rotate(ctx, m)
		if errors.Is(err, errNotFull) {
			// Another one was faster.
			return oneFile(k.audit.Descriptor())
		}
		if err == nil {
			// Others would go on writing to the file that was put aside.
			go k.tellOthers(w, protocol.Rotated)
		}
		return result, files, err
	}
	all[protocol.Leave] = func(_ context.Context, m *wire.Message) (any, []*os.File, error) {
		m.CloseFiles()
		// Before the answer: whoever starts the next one waits for that.
		k.mu.Lock()
		if k.worker == w {
			k.worker, k.serving = nil, false
		}
		k.mu.Unlock()
		w.leave()
		return nil, nil, nil
	}
	return all
}
