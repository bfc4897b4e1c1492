package audit

import (
	"fmt"
	"sync/atomic"
)

// A way is a sink with what leads to it: a queue and a writer of its own, so
// that no sink waits for another.
type way struct {
	log   *Log
	sink  Sink
	limit int // of a line with its chain; 0 is none
	// followed: what was written here goes to whoever follows.
	followed bool

	queue queue
	wake  chan struct{} // capacity 1: the queue is no longer empty

	// fault is why nothing is written, or nil.
	fault atomic.Pointer[error]

	failures atomic.Uint64 // attempts to write that failed
	lost     atomic.Uint64 // events that the sink will never see

	chain chain // the writer's own
}

func newWay(l *Log, sink Sink, events, bytes int) *way {
	w := &way{log: l, sink: sink, wake: make(chan struct{}, 1)}
	if limited, ok := sink.(LimitedSink); ok {
		w.limit = limited.MaxLine()
	}
	w.queue.init(events, bytes)
	return w
}

// add queues an encoded event, or counts it as lost.
func (w *way) add(line []byte) {
	first, taken := w.queue.add(line)
	if !taken {
		w.lost.Add(1)
	}
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// trouble is why no exchange may be admitted now.
func (w *way) trouble() error {
	if err := w.fault.Load(); err != nil {
		return *err
	}
	if w.queue.high.Load() {
		return ErrQueueFull
	}
	return nil
}

func (w *way) setFault(err error) {
	if err == nil {
		w.fault.Store(nil)
		return
	}
	err = fmt.Errorf("audit cannot be written%s: %w", w.to(), err)
	w.fault.Store(&err)
}

// to names the sink where it is not the usual one.
func (w *way) to() string {
	if name := w.sink.Name(); name != (*FileSink)(nil).Name() {
		return " to " + name
	}
	return ""
}
