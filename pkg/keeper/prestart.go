package keeper

import "context"

// A prestarted is a worker that was started before everything is there that it
// will be handed: the start of its process takes as long as what we do meanwhile.
type prestarted struct {
	cancel context.CancelFunc
	done   chan struct{}
	// worker and err are what came of it, once done is closed.
	worker *process
	err    error
}

// prestart starts the first worker. Until it is handed a listener it can do
// nothing.
func (k *Keeper) prestart() {
	ctx, cancel := context.WithCancel(context.Background())
	p := &prestarted{cancel: cancel, done: make(chan struct{})}
	k.prestarted = p
	go func() {
		defer close(p.done)
		p.worker, p.err = startWorker(ctx, k.handlers())
	}()
}

// takeWorker gives the worker that was started ahead, or a new one. It ends with
// ctx.
func (k *Keeper) takeWorker(ctx context.Context) (*process, error) {
	p := k.prestarted
	if p == nil {
		return startWorker(ctx, k.handlers())
	}
	k.prestarted = nil
	<-p.done
	if p.err != nil {
		p.cancel()
		return nil, p.err
	}
	context.AfterFunc(ctx, p.cancel)
	return p.worker, nil
}

// dropWorker ends a worker that was started ahead and that nobody took.
func (k *Keeper) dropWorker() {
	p := k.prestarted
	if p == nil {
		return
	}
	k.prestarted = nil
	p.cancel()
	<-p.done
	if p.worker != nil {
		<-p.worker.done
	}
}
