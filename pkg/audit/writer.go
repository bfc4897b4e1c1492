package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	w := &writer{log: l, gather: time.NewTimer(time.Hour)}
	defer w.gather.Stop()
	defer l.followers.close()
	for {
		select {
		case <-ctx.Done():
			return w.drain()
		case <-l.wake:
		}
		w.gather.Reset(linger)
		select {
		case <-ctx.Done():
			return w.drain()
		case <-w.gather.C:
		}
		// On error ctx has ended, and unwritten keeps what is left.
		if err := w.batch(ctx); err != nil {
			return w.drain()
		}
	}
}

// A writer is what Run keeps between batches.
type writer struct {
	log    *Log
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
}

// drain writes the rest after the context of Run has ended.
func (w *writer) drain() error {
	l := w.log
	ctx, cancel := context.WithTimeout(context.Background(), l.flush)
	defer cancel()
	err := w.batch(ctx)
	l.queue.close() // what is recorded from here on is lost, and counted
	if err == nil {
		err = w.batch(ctx)
	}
	closed := ErrClosed
	l.fault.Store(&closed)
	lost := uint64(bytes.Count(w.out[w.done:], newline)+bytes.Count(w.lines, newline)) + w.gap
	rest, _, gap := l.queue.take(nil)
	lost += uint64(bytes.Count(rest, newline)) + gap
	if lost == 0 {
		return nil
	}
	l.lost.Add(lost - w.gap - gap) // a gap was counted when it arose
	return fmt.Errorf("audit: %d events were not written: %w", lost, errors.Join(err, ctx.Err()))
}

var newline = []byte{'\n'}

// batch writes what the queue holds. It returns only when all of it is in the
// sink, or with the sink's error when ctx has ended first; the rest then stays
// in w.
func (w *writer) batch(ctx context.Context) error {
	l := w.log
	for {
		if err := w.flush(ctx); err != nil {
			return err
		}
		if len(w.lines) == 0 && w.gap == 0 {
			w.taken, _, w.gap = l.queue.take(w.spare)
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
	chain := &w.log.chain
	rest := w.lines
	for len(rest) > 0 && len(w.out) < writeBytes {
		end := bytes.IndexByte(rest, '\n')
		w.out = chain.appendLine(w.out, rest[:end])
		rest = rest[end+1:]
	}
	if len(rest) > 0 {
		w.lines = rest
		return
	}
	if w.gap > 0 {
		w.out = chain.appendLine(w.out, w.log.gapEvent(w.gap))
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
	l := w.log
	var (
		since time.Time // of the first failure
		cause error
		retry = firstRetry
	)
	for w.done < len(w.out) {
		n, err := l.sink.Write(w.out[w.done:])
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
		l.failures.Add(1)
		l.setFault(err)
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
	l.followers.publish(w.out)
	w.out, w.done = reuse(w.out), 0
	if cause != nil {
		l.setFault(nil)
		l.Record(&Event{
			Kind: Lifecycle,
			Message: fmt.Sprintf("the audit could not be written for %.1f s: %v; it is written again",
				time.Since(since).Seconds(), cause),
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
