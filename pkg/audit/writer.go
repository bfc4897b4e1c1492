package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// The writer's bounds.
const (
	// writeBytes is how much is handed to the sink at once.
	writeBytes = 256 << 10
	// keepBytes is the most that a buffer keeps after a burst.
	keepBytes = 1 << 20

	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
)

// Run writes until ctx ends, then what still waits, for at most Options.Flush.
// It returns nil when everything recorded was written, else an error that says
// how many events were lost. It may be called once.
func (l *Log) Run(ctx context.Context) error {
	errs := make([]error, len(l.ways))
	var running sync.WaitGroup
	for i, w := range l.ways {
		running.Go(func() { errs[i] = w.run(ctx) })
	}
	running.Wait()
	l.followers.close()
	return errors.Join(errs...)
}

func (w *way) run(ctx context.Context) error {
	r := &writer{way: w, gather: time.NewTimer(time.Hour)}
	defer r.gather.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.drain()
		case <-w.wake:
		}
		r.gather.Reset(linger)
		select {
		case <-ctx.Done():
			return r.drain()
		case <-r.gather.C:
		}
		// On error ctx has ended, and unwritten keeps what is left.
		if err := r.batch(ctx); err != nil {
			return r.drain()
		}
	}
}

// A writer is what run keeps between batches.
type writer struct {
	*way
	gather *time.Timer
	spare  []byte // the queue's other buffer
	// taken is the buffer that came from the queue; lines is the part of it that
	// is not yet chained.
	taken, lines []byte
	// out is chained lines, of which done bytes are in the sink.
	out  []byte
	done int
	// gap is the number of events lost after lines.
	gap uint64
	// short is memory for a line that was shortened.
	short []byte
}

// drain writes the rest after the context of run has ended.
func (w *writer) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), w.log.flush)
	defer cancel()
	err := w.batch(ctx)
	w.queue.close() // what is recorded from here on is lost, and counted
	if err == nil {
		err = w.batch(ctx)
	}
	closed := ErrClosed
	w.fault.Store(&closed)
	lost := uint64(bytes.Count(w.out[w.done:], newline)+bytes.Count(w.lines, newline)) + w.gap
	rest, _, gap := w.queue.take(nil)
	lost += uint64(bytes.Count(rest, newline)) + gap
	if lost == 0 {
		return nil
	}
	w.lost.Add(lost - w.gap - gap) // a gap was counted when it arose
	return fmt.Errorf("audit: %d events were not written%s: %w", lost, w.to(), errors.Join(err, ctx.Err()))
}

var newline = []byte{'\n'}

// batch writes what the queue holds. It returns only when all of it is in the
// sink, or with the sink's error when ctx has ended first; the rest then stays
// in w.
func (w *writer) batch(ctx context.Context) error {
	for {
		if err := w.flush(ctx); err != nil {
			return err
		}
		if len(w.lines) == 0 && w.gap == 0 {
			w.taken, _, w.gap = w.queue.take(w.spare)
			w.lines, w.spare = w.taken, nil
			if len(w.lines) == 0 && w.gap == 0 {
				w.spare = w.taken
				return nil
			}
		}
		w.chainLines()
	}
}

// chainLines moves lines to out, up to writeBytes.
func (w *writer) chainLines() {
	rest := w.lines
	for len(rest) > 0 && len(w.out) < writeBytes {
		end := bytes.IndexByte(rest, '\n')
		line := rest[:end]
		if w.limit > 0 && len(line) > w.limit-chainBytes {
			w.short = shorten(w.short[:0], line, w.limit-chainBytes)
			line = w.short
		}
		w.out = w.chain.appendLine(w.out, line)
		rest = rest[end+1:]
	}
	if len(rest) > 0 {
		w.lines = rest
		return
	}
	if w.gap > 0 {
		w.out = w.chain.appendLine(w.out, w.log.gapEvent(w.gap))
		w.gap = 0
	}
	w.spare = reuse(w.taken)
	w.taken, w.lines = nil, nil
}

// gapEvent tells in the audit itself that it has a hole.
func (l *Log) gapEvent(lost uint64) []byte {
	var id [32]byte
	l.kinds[Lifecycle].Add(1)
	return appendEvent(nil, &Event{
		Kind:    Lifecycle,
		Count:   lost,
		Message: fmt.Sprintf("%d events were lost here: the audit queue was full", lost),
	}, time.Now(), l.appendID(id[:0]))
}

// flush brings out into the sink, however often that has to be tried.
func (w *writer) flush(ctx context.Context) error {
	var (
		since time.Time // of the first failure
		cause error
		retry = firstRetry
	)
	for w.done < len(w.out) {
		n, err := w.sink.Write(w.out[w.done:])
		w.done += n
		switch {
		case errors.Is(err, ErrRestart):
			w.done = bytes.LastIndexByte(w.out[:w.done], '\n') + 1
			continue
		case err == nil && w.done < len(w.out) && n > 0:
			continue
		case err == nil && n == 0:
			err = io.ErrShortWrite
		}
		if err == nil {
			break
		}
		w.failures.Add(1)
		w.setFault(err)
		if cause == nil {
			since = time.Now()
		}
		cause = err
		w.gather.Reset(retry)
		retry = min(2*retry, lastRetry)
		select {
		case <-ctx.Done():
			return err
		case <-w.gather.C:
		}
	}
	if len(w.out) == 0 {
		return nil
	}
	if w.followed {
		w.log.followers.publish(w.out)
	}
	w.out, w.done = reuse(w.out), 0
	if cause != nil {
		w.setFault(nil)
		w.log.Record(&Event{
			Kind: Lifecycle,
			Message: fmt.Sprintf("the audit could not be written%s for %.1f s: %v; it is written again",
				w.to(), time.Since(since).Seconds(), cause),
		})
	}
	return nil
}

// reuse gives b's memory back for the next batch, unless a burst made it large.
func reuse(b []byte) []byte {
	if cap(b) > keepBytes {
		return nil
	}
	return b[:0]
}
