package audit

import (
	"crypto/rand"
	"errors"
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
	// Sink is where lines go; required. It is the one that followers follow and
	// that End is of.
	Sink Sink
	// Beside are further sinks. Each has a queue and a chain of its own: one that
	// is slow or away holds up no other.
	Beside []Sink
	// OnFailure is the configuration's audit.on_failure.
	OnFailure OnFailure
	// QueueEvents and QueueBytes bound what waits to be written to each sink.
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
	onFailure OnFailure
	flush     time.Duration
	instance  string
	nextID    atomic.Uint64
	lines     sync.Pool // *[]byte, one encoded event

	ways []*way // one for each sink, Options.Sink first

	kinds [kindCount]atomic.Uint64 // recorded, written or still queued

	followers followers
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
		onFailure: o.OnFailure,
		flush:     o.Flush,
		instance:  strings.ToLower(rand.Text()[:10]),
		lines:     sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }},
	}
	for _, sink := range append([]Sink{o.Sink}, o.Beside...) {
		l.ways = append(l.ways, newWay(l, sink, o.QueueEvents, o.QueueBytes))
	}
	l.ways[0].chain.resume(o.End)
	l.ways[0].followed = true
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
// event that finds the queue of a sink full is lost to that one: it is counted,
// and the log itself says so by a lifecycle event in its place. Record panics for
// a kind outside the set.
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
	for _, w := range l.ways {
		w.add(b)
	}
	if cap(b) <= 64<<10 { // one huge event must not stay in the pool
		*line = b
		l.lines.Put(line)
	}
}

// Healthy reports, with Block, why no exchange may be admitted now: a sink that
// fails, or whose queue is nearly full. It is nil otherwise, and always nil with
// Continue. It costs two atomic loads for each sink.
func (l *Log) Healthy() error {
	if l.onFailure == Continue {
		return nil
	}
	return l.Fault()
}

// Fault reports what Healthy would report with Block, whatever OnFailure is:
// what status shows as a problem.
func (l *Log) Fault() error {
	for _, w := range l.ways {
		if err := w.trouble(); err != nil {
			return err
		}
	}
	return nil
}

// Stats is what the log has done since it was made.
type Stats struct {
	// Events counts recorded events by kind; lost ones are among them.
	Events map[Kind]uint64
	// Sinks are in the order of Options, Sink first.
	Sinks []SinkStats
	// Followers are the present Subscriptions.
	Followers, FollowersCapacity uint64
}

// SinkStats is what became of the events of one sink.
type SinkStats struct {
	// Name is that of the sink.
	Name string
	// Failures counts attempts to write that failed, Lost the events that the
	// sink will never see.
	Failures, Lost uint64
	// The queue: what waits, and how much may.
	QueueEvents, QueueEventsCapacity uint64
	QueueBytes, QueueBytesCapacity   uint64
}

// Stats takes a snapshot.
func (l *Log) Stats() Stats {
	s := Stats{
		Events:            make(map[Kind]uint64, kindCount),
		Sinks:             make([]SinkStats, len(l.ways)),
		Followers:         uint64(l.followers.count()),
		FollowersCapacity: MaxFollowers,
	}
	for k := Kind(1); k < kindCount; k++ {
		s.Events[k] = l.kinds[k].Load()
	}
	for i, w := range l.ways {
		s.Sinks[i] = SinkStats{Name: w.sink.Name(), Failures: w.failures.Load(), Lost: w.lost.Load()}
		w.queue.fill(&s.Sinks[i])
	}
	return s
}
