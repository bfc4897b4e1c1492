package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"sallyport/bpf"
)

const (
	// refusalPeriod is how often equal refusals are told.
	refusalPeriod = time.Second
	// refusalIdle is how long a refusal's place is kept after the last one.
	refusalIdle = 10 * time.Second
	// EventPause is how long the reader leaves the buffer alone once it is empty.
	// Waking up costs many times what an event does, and the kernel wakes nobody
	// who has not read up to the end: with many connections that is once a pause
	// instead of once a connection. The buffer takes 7,000 events meanwhile.
	EventPause = 20 * time.Millisecond
)

// anyDestination marks keys of the table without destinations, after bpf/types.h.
const anyDestination = 0x100

// Kinds of ring buffer entries, after enum sp_event_kind.
const (
	eventRefused = iota + 1
	eventOpened
	eventClosed
)

// Events calls f for each event until the context ends, then returns nil. The
// first refusal of a kind comes within 20 ms, equal ones (same workload, reason and
// destination) once a second with their number. f is called by one goroutine at a
// time and must not block for long: what does not fit into the buffer meanwhile is
// counted by EventsLost. Only one Events may run.
func (d *Datapath) Events(ctx context.Context, f func(Event)) error {
	if d.absent {
		<-ctx.Done()
		return nil
	}
	reader, err := ringbuf.NewReader(d.maps.Events)
	if err != nil {
		return fmt.Errorf("datapath: ring buffer: %w", err)
	}
	defer reader.Close()
	// Who waits holds the reader's lock, so that a new deadline would come too late.
	stop := context.AfterFunc(ctx, func() { _ = reader.Flush() })
	defer stop()

	t := refusalTeller{d: d, tell: f, told: make(map[bpf.SallyportSpRefusalKey]uint64)}
	if err := t.recall(); err != nil {
		return err
	}
	var record ringbuf.Record
	next := time.Now()
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(next) {
			if err := t.sweep(); err != nil {
				return err
			}
			next = now.Add(refusalPeriod)
		}
		reader.SetDeadline(next)
		err := reader.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
			continue
		}
		if err != nil {
			return fmt.Errorf("datapath: ring buffer: %w", err)
		}
		if err := d.event(record.RawSample, &t); err != nil {
			return err
		}
		if reader.AvailableBytes() > 0 {
			continue
		}
		select {
		case <-time.After(EventPause):
		case <-ctx.Done():
		}
	}
	// What is counted but not told yet must not wait for the next daemon.
	return t.sweep()
}

func (d *Datapath) event(raw []byte, t *refusalTeller) error {
	var e bpf.SallyportSpEvent
	if len(raw) < int(unsafe.Sizeof(e)) {
		return fmt.Errorf("datapath: ring buffer: an entry of %d bytes", len(raw))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)), raw)
	if e.Kind == eventRefused {
		return t.first(&e)
	}
	clock, err := newClock()
	if err != nil {
		return err
	}
	d.mu.Lock()
	out := Event{Count: 1, Time: clock.wallNow, Flow: d.stats(&e.Flow, clock)}
	d.mu.Unlock()
	out.Inbound = out.Flow.Kind == Inbound
	switch e.Kind {
	case eventOpened:
		out.Kind = Opened
		out.Time = out.Flow.Opened
	case eventClosed:
		out.Kind = Closed
	default:
		return fmt.Errorf("datapath: ring buffer: an entry of kind %d", e.Kind)
	}
	t.tell(out)
	return nil
}

// refusalTeller tells refusals by what the kernel's tables have counted beyond
// what was told before. The kernel keeps both numbers, so that a daemon which
// takes over tells what was refused while there was none.
type refusalTeller struct {
	d    *Datapath
	tell func(Event)
	told map[bpf.SallyportSpRefusalKey]uint64
}

// recall learns what an earlier process has told.
func (t *refusalTeller) recall() error {
	var key bpf.SallyportSpRefusalKey
	var n uint64
	it := t.d.maps.RefusalsTold.Iterate()
	for it.Next(&key, &n) {
		t.told[key] = n
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("datapath: told refusals: %w", err)
	}
	return nil
}

// first tells a refusal that the ring buffer brought, unless a sweep was faster.
func (t *refusalTeller) first(e *bpf.SallyportSpEvent) error {
	key := bpf.SallyportSpRefusalKey{
		Workload: e.Flow.Workload,
		Dst:      e.Flow.Dst,
		Port:     e.Flow.Dport,
		Protocol: e.Flow.Protocol,
		Reason:   e.Reason,
	}
	var r bpf.SallyportSpRefusal
	if err := t.d.maps.Refusals.Lookup(key, &r); errors.Is(err, ebpf.ErrKeyNotExist) {
		// It went to the table without destinations, or was swept already.
		return nil
	} else if err != nil {
		return fmt.Errorf("datapath: refusals: %w", err)
	}
	if t.told[key] > 0 {
		return nil
	}
	return t.emit(key, &r, 1)
}

// emit tells n more of a refusal.
func (t *refusalTeller) emit(key bpf.SallyportSpRefusalKey, r *bpf.SallyportSpRefusal, n uint64) error {
	clock, err := newClock()
	if err != nil {
		return err
	}
	number := key.Reason &^ anyDestination
	if number == 0 || number >= uint32(reasonCount) {
		return fmt.Errorf("datapath: a refusal for reason %d", key.Reason)
	}
	reason := Reason(number)
	t.told[key] += n
	if err := t.d.maps.RefusalsTold.Update(key, t.told[key], ebpf.UpdateAny); err != nil {
		return fmt.Errorf("datapath: told refusals: %w", err)
	}
	t.tell(Event{
		Kind:   Refused,
		Reason: reason,
		Count:  n,
		Time:   clock.wall(r.Last),
		Flow: FlowStats{
			Cgroup:   r.Cgroup,
			Workload: key.Workload,
			Netns:    r.Netns,
			Protocol: Protocol(key.Protocol),
			Dst:      addrPort(key.Dst, key.Port),
			PID:      r.Pid,
			UID:      r.Uid,
		},
		Inbound: reason == InboundDenied,
	})
	return nil
}

// sweep tells what has been refused since, and frees the places of refusals that
// have stopped.
func (t *refusalTeller) sweep() error {
	clock, err := newClock()
	if err != nil {
		return err
	}
	for _, m := range []*ebpf.Map{t.d.maps.Refusals, t.d.maps.RefusalsAny} {
		var idle []bpf.SallyportSpRefusalKey
		err := eachEntry(m, func(key bpf.SallyportSpRefusalKey, r *bpf.SallyportSpRefusal) error {
			if more := r.Total - t.told[key]; more > 0 {
				return t.emit(key, r, more)
			}
			if clock.mono-int64(r.Last) > int64(refusalIdle) {
				idle = append(idle, key)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range idle {
			if err := t.forget(m, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget frees a refusal's place. One that was counted meanwhile is told.
func (t *refusalTeller) forget(m *ebpf.Map, key bpf.SallyportSpRefusalKey) error {
	var r bpf.SallyportSpRefusal
	if err := m.LookupAndDelete(key, &r); err != nil {
		return fmt.Errorf("datapath: refusals: %w", err)
	}
	if more := r.Total - t.told[key]; more > 0 {
		if err := t.emit(key, &r, more); err != nil {
			return err
		}
	}
	delete(t.told, key)
	if err := t.d.maps.RefusalsTold.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("datapath: told refusals: %w", err)
	}
	return nil
}
