package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// OnFailure says what an audit that cannot be written means for the workloads.
type OnFailure uint8

const (
	// Block: Healthy reports the failure, and the proxy refuses exchanges with
	// audit_unavailable until a write has succeeded again.
	Block OnFailure = iota
	// Continue: exchanges go on; events that find the queue full are counted.
	Continue
)

// Bounds of the queue where Options leaves them zero.
const (
	DefaultQueueEvents = 32 << 10
	DefaultQueueBytes  = 16 << 20
)

// linger is how long the writer lets events gather after the first one: an
// event is in the file within linger plus one write. At 20,000 events a second
// it turns 20,000 writes into 500.
const linger = 2 * time.Millisecond

// ErrClosed is what Healthy reports once Run has ended: nobody would write.
var ErrClosed = errors.New("the audit is closed")

// ErrQueueFull is what Healthy reports, with Block, from the moment when three
// quarters of the queue are used. The rest is for the exchanges that were
// admitted before.
var ErrQueueFull = errors.New("the audit queue is nearly full")

// Options says how a Log works. Zero values are the defaults.
type Options struct {
	// Sink is where lines go; required.
	Sink Sink
	// OnFailure is the configuration's audit.on_failure.
	OnFailure OnFailure
	// QueueEvents and QueueBytes bound what waits to be written.
	QueueEvents, QueueBytes int
	// End is the end of the last whole line of the file that is continued, from
	// file.Files.End; the chain goes on from it. Empty or foreign: a new chain.
	End []byte
	// Flush bounds how long Run goes on trying to write after its context has
	// ended; default 5 s.
	Flush time.Duration
}

// A Log takes events and writes them. All methods may be called at any time
// from any goroutine.
type Log struct {
	sink      Sink
	onFailure OnFailure
	flush     time.Duration
	instance  string
	nextID    atomic.Uint64
	lines     sync.Pool // *[]byte, one encoded event

	queue queue
	wake  chan struct{} // capacity 1: the queue is no longer empty

	// fault is why Healthy is not nil, or nil.
	fault atomic.Pointer[error]

	kinds    [kindCount]atomic.Uint64 // recorded, written or still queued
	failures atomic.Uint64            // attempts to write that failed
	lost     atomic.Uint64            // events that no sink will see

	followers followers
	chain     chain // the writer's own
}

// New makes a Log. Nothing is written before Run; Record works at once.
func New(o Options) (*Log, error) {
	if o.Sink == nil {
		return nil, errors.New("audit: no sink")
	}
	if o.QueueEvents <= 0 {
		o.QueueEvents = DefaultQueueEvents
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = DefaultQueueBytes
	}
	if o.Flush <= 0 {
		o.Flush = 5 * time.Second
	}
	l := &Log{
		sink:      o.Sink,
		onFailure: o.OnFailure,
		flush:     o.Flush,
		instance:  strings.ToLower(rand.Text()[:10]),
		lines:     sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }},
		wake:      make(chan struct{}, 1),
	}
	l.queue.init(o.QueueEvents, o.QueueBytes)
	l.chain.resume(o.End)
	return l, nil
}

// NextID gives an event id before its event exists, for an answer that names it:
// 50 random bits of this process, "-", and a count in base 36. Ids of one process
// sort by length and text in the order in which they were given.
func (l *Log) NextID() string {
	var b [32]byte
	return string(l.appendID(b[:0]))
}

func (l *Log) appendID(b []byte) []byte {
	b = append(b, l.instance...)
	b = append(b, '-')
	return strconv.AppendUint(b, l.nextID.Add(1), 36)
}

// Record redacts and encodes e and queues it. It never waits, keeps nothing of
// e, and may be called with strings that the caller overwrites afterwards. An
// event that finds the queue full is lost: it is counted, and the log itself
// says so by a lifecycle event in its place. Record panics for a kind outside
// the set.
func (l *Log) Record(e *Event) {
	line := l.lines.Get().(*[]byte)
	var (
		now   time.Time
		idBuf [32]byte
		id    []byte
	)
	if e.Time.IsZero() {
		now = time.Now()
	}
	if e.ID == "" {
		id = l.appendID(idBuf[:0])
	}
	b := appendEvent((*line)[:0], e, now, id)
	l.kinds[e.Kind].Add(1)
	first, taken := l.queue.add(b)
	if cap(b) <= 64<<10 { // one huge event must not stay in the pool
		*line = b
		l.lines.Put(line)
	}
	if !taken {
		l.lost.Add(1)
	}
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Healthy reports, with Block, why no exchange may be admitted now; nil
// otherwise, and always nil with Continue. It costs two atomic loads.
func (l *Log) Healthy() error {
	if l.onFailure == Continue {
		return nil
	}
	return l.Fault()
}

// Fault reports what Healthy would report with Block, whatever OnFailure is:
// what status shows as a problem.
func (l *Log) Fault() error {
	if err := l.fault.Load(); err != nil {
		return *err
	}
	if l.queue.high.Load() {
		return ErrQueueFull
	}
	return nil
}

func (l *Log) setFault(err error) {
	if err == nil {
		l.fault.Store(nil)
		return
	}
	err = fmt.Errorf("audit cannot be written: %w", err)
	l.fault.Store(&err)
}

// Stats is what the log has done since it was made.
type Stats struct {
	// Sink is the name of the sink.
	Sink string
	// Events counts recorded events by kind; lost ones are among them.
	Events map[Kind]uint64
	// Failures counts attempts to write that failed, Lost the events that no
	// sink will see.
	Failures, Lost uint64
	// The queue: what waits, and how much may.
	QueueEvents, QueueEventsCapacity uint64
	QueueBytes, QueueBytesCapacity   uint64
	// Followers are the present Subscriptions.
	Followers, FollowersCapacity uint64
}

// Stats takes a snapshot.
func (l *Log) Stats() Stats {
	s := Stats{
		Sink:              l.sink.Name(),
		Events:            make(map[Kind]uint64, kindCount),
		Failures:          l.failures.Load(),
		Lost:              l.lost.Load(),
		Followers:         uint64(l.followers.count()),
		FollowersCapacity: MaxFollowers,
	}
	for k := Kind(1); k < kindCount; k++ {
		s.Events[k] = l.kinds[k].Load()
	}
	l.queue.fill(&s)
	return s
}
