package keeper

import (
	"context"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/datapath"
	"sallyport/pkg/keeper/protocol"
)

const (
	// eventQueue bounds the kernel's events that wait for the worker. A full
	// queue drops and counts: the kernel's own counters stay exact.
	eventQueue = 4096
	// eventBatch is how many events go into one notice, and eventDelay how long
	// the first of them waits for others.
	eventBatch = 256
	eventDelay = 5 * time.Millisecond
)

// forwardEvents hands the kernel's events to the worker, which records them.
// While no worker runs they wait.
func (k *Keeper) forwardEvents(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.sendEvents(ctx, k.events)
	}()
	err := k.gate.data.Events(ctx, func(e datapath.Event) {
		if e.Kind == datapath.Refused && e.Reason == datapath.NoListener {
			k.namespaces.prod()
		}
		if e.Kind == datapath.Refused && e.Reason == datapath.ForeignSocket {
			k.prodForeign()
		}
		select {
		case k.events <- e:
		default:
			k.eventsLost.Add(1)
		}
	})
	<-done
	return err
}

func (k *Keeper) sendEvents(ctx context.Context, queue <-chan datapath.Event) {
	told := k.lostInKernel(0) // what was lost before is in the metric alone
	batch := protocol.KernelArgs{Events: make([]datapath.Event, 0, eventBatch), Ended: make([]protocol.Ended, 0, eventBatch)}
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-queue:
			if e.Kind == datapath.Closed && e.Flow.Kind == datapath.Captured {
				batch.Ended = append(batch.Ended, protocol.EndedOf(&e.Flow))
			} else {
				batch.Events = append(batch.Events, e)
			}
			if timer == nil {
				timer = time.After(eventDelay)
			}
			if len(batch.Events) < eventBatch && len(batch.Ended) < eventBatch {
				continue
			}
		case <-timer:
		}
		timer = nil
		if len(batch.Ended) > 0 {
			// Flows that began with a worker which drains end there.
			k.tellDraining(protocol.Kernel, protocol.KernelArgs{Ended: batch.Ended})
		}
		if !k.waitServing(ctx) {
			return
		}
		total := k.lostInKernel(told)
		batch.Lost = k.eventsLost.Swap(0) + total - told
		told = total
		if err := k.tell(protocol.Kernel, batch); err != nil {
			lost := len(batch.Events) + len(batch.Ended)
			k.eventsLost.Add(batch.Lost + uint64(lost))
			k.log.Warn("kernel events lost", zap.Error(err), zap.Int("events", lost))
		}
		batch.Events, batch.Ended = batch.Events[:0], batch.Ended[:0]
	}
}

// lostInKernel gives how many events the kernel had no room for since the
// programs were loaded; the last answer where it cannot be read.
func (k *Keeper) lostInKernel(last uint64) uint64 {
	n, err := k.gate.data.EventsLost()
	if err != nil {
		k.log.Warn("lost events of the kernel", zap.Error(err))
		return last
	}
	return n
}
