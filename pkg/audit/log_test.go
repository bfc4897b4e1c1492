package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// memory is a sink that can fail.
type memory struct {
	mu    sync.Mutex
	data  []byte
	fail  error // of every write
	most  int   // bytes taken by one write; 0 = all
	calls int
	block chan struct{} // a write waits until it is closed
}

func (m *memory) Name() string { return "memory" }

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	block := m.block
	m.mu.Unlock()
	if block != nil {
		<-block
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.fail != nil {
		return 0, m.fail
	}
	n := len(p)
	if m.most > 0 && n > m.most {
		m.data = append(m.data, p[:m.most]...)
		return m.most, syscall.ENOSPC
	}
	m.data = append(m.data, p...)
	return n, nil
}

func (m *memory) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memory) text() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data)
}

// start runs a log; stop ends it and gives what Run returned.
func start(t *testing.T, o Options) (l *Log, stop func() error) {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return l, stop
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// events decodes all lines and checks the chain, which begins after prev.
func events(t *testing.T, data []byte, prev string) []Event {
	t.Helper()
	var list []Event
	for line := range bytes.Lines(data) {
		var e Event
		if err := Decode(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Prev != prev {
			t.Fatalf("line %d: prev is %q, the line before has %q", len(list)+1, e.Prev, prev)
		}
		covered, _, _ := bytes.Cut(line, []byte(`,"hash":`))
		sum := sha256.Sum256(covered)
		if e.Hash != hex.EncodeToString(sum[:]) {
			t.Fatalf("line %d: hash is %s", len(list)+1, e.Hash)
		}
		prev = e.Hash
		list = append(list, e)
	}
	return list
}

func TestRecordReachesTheSinkPromptly(t *testing.T) {
	sink := &memory{}
	l, _ := start(t, Options{Sink: sink})
	best := time.Hour
	for i := range 20 {
		began := time.Now()
		l.Record(&Event{Kind: Exchange})
		eventually(t, "the event is written", func() bool { return bytes.Count(sink.text(), newline) == i+1 })
		best = min(best, time.Since(began))
	}
	// The best of some: other tests run on this machine.
	if best > 5*time.Millisecond {
		t.Errorf("the fastest event took %s, the promise is 5 ms", best)
	}
}

func TestBatches(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	const n = 5000
	for range n {
		l.Record(&Event{Kind: Exchange})
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := len(events(t, sink.text(), "")); got != n {
		t.Errorf("%d events, want %d", got, n)
	}
	if sink.calls > n/10 {
		t.Errorf("%d writes for %d events", sink.calls, n)
	}
}

func TestIDsAreUnique(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				e := Event{Kind: Exchange}
				if i%2 == 0 {
					e.ID = l.NextID()
				}
				l.Record(&e)
				if e.Time != (time.Time{}) {
					t.Error("Record changed the event")
				}
			}
		})
	}
	wg.Wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range events(t, sink.text(), "") {
		if seen[e.ID] || e.ID == "" {
			t.Fatalf("id %q is there twice", e.ID)
		}
		seen[e.ID] = true
		if since := time.Since(e.Time); since < 0 || since > time.Minute {
			t.Fatalf("time %s", e.Time)
		}
	}
	other, _ := New(Options{Sink: sink})
	if a, b := other.NextID(), l.NextID(); a[:10] == b[:10] {
		t.Errorf("two logs give %s and %s", a, b)
	}
}

func TestChainContinues(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	l.Record(&Event{Kind: Lifecycle})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	first := sink.text()
	end := first[len(first)-128:]
	l, stop = start(t, Options{Sink: sink, End: end})
	l.Record(&Event{Kind: Lifecycle})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(events(t, sink.text(), "")); n != 2 {
		t.Errorf("%d events", n)
	}
	for _, foreign := range []string{"", "x\n", strings.Repeat("x", 200) + "\n", string(end[:127])} {
		c := chain{}
		c.resume([]byte(foreign))
		if len(c.last) != 0 {
			t.Errorf("the chain goes on from %q", foreign)
		}
	}
}

func TestFailingSink(t *testing.T) {
	tests := []struct {
		name      string
		onFailure OnFailure
		fail      error
	}{
		{"block", Block, syscall.ENOSPC},
		{"continue", Continue, syscall.EIO},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sink := &memory{fail: tt.fail}
			l, stop := start(t, Options{Sink: sink, OnFailure: tt.onFailure})
			if err := l.Healthy(); err != nil {
				t.Fatalf("at start: %v", err)
			}
			l.Record(&Event{Kind: Exchange, Message: "first"})
			eventually(t, "a failure is seen", func() bool { return l.Fault() != nil })
			if err := l.Healthy(); tt.onFailure == Block && !errors.Is(err, tt.fail) || tt.onFailure == Continue && err != nil {
				t.Errorf("healthy: %v", err)
			}
			l.Record(&Event{Kind: Exchange, Message: "second"})
			sink.setFail(nil)
			eventually(t, "healthy again", func() bool { return l.Fault() == nil })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			list := events(t, sink.text(), "")
			if len(list) != 3 || list[0].Message != "first" {
				t.Fatalf("%+v", list)
			}
			if i := slices.IndexFunc(list, func(e Event) bool { return e.Kind == Lifecycle }); i < 0 || !strings.Contains(list[i].Message, tt.fail.Error()) {
				t.Errorf("no event tells of the failure: %+v", list)
			}
			if s := l.Stats(); s.Sinks[0].Failures == 0 || s.Sinks[0].Lost != 0 || s.Events[Exchange] != 2 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestPartialWritesGoOnWhereTheyStopped(t *testing.T) {
	sink := &memory{most: 100}
	l, stop := start(t, Options{Sink: sink})
	for range 3 {
		l.Record(&Event{Kind: Exchange})
	}
	eventually(t, "something is written", func() bool { return len(sink.text()) >= 200 })
	sink.mu.Lock()
	sink.most = 0
	sink.mu.Unlock()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(events(t, sink.text(), "")); n < 3 {
		t.Errorf("%d events", n)
	}
}

// restarting is a sink that takes half a line and then exchanges its file.
type restarting struct {
	memory
	step int
}

func (r *restarting) Write(p []byte) (int, error) {
	switch r.step++; r.step {
	case 1:
		// One line is taken, and ten bytes of the next that the exchange loses.
		whole := bytes.IndexByte(p, '\n') + 1
		r.memory.Write(p[:whole])
		return whole + 10, syscall.EIO
	case 2:
		return 0, ErrRestart
	}
	return r.memory.Write(p)
}

func TestExchangedSinkGetsWholeLines(t *testing.T) {
	sink := &restarting{}
	l, err := New(Options{Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Record(&Event{Kind: Exchange})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(events(t, sink.text(), "")); n != 4 { // the fourth tells of EIO
		t.Errorf("%d events", n)
	}
}

func TestFullQueue(t *testing.T) {
	sink := &memory{block: make(chan struct{})}
	l, stop := start(t, Options{Sink: sink, QueueEvents: 8})
	l.Record(&Event{Kind: Exchange, Message: "taken by the writer"})
	eventually(t, "the writer has it", func() bool { return l.Stats().Sinks[0].QueueEvents == 0 })
	for range 6 {
		l.Record(&Event{Kind: Exchange, Message: "fits"})
	}
	if err := l.Healthy(); err != nil {
		t.Errorf("three quarters full: %v", err)
	}
	l.Record(&Event{Kind: Exchange, Message: "fits"})
	if err := l.Healthy(); !errors.Is(err, ErrQueueFull) {
		t.Errorf("more than three quarters full: %v", err)
	}
	for range 5 {
		l.Record(&Event{Kind: Exchange, Message: "one fits, four are lost"})
	}
	if s := l.Stats().Sinks[0]; s.Lost != 4 || s.QueueEvents != 8 || s.QueueEventsCapacity != 8 {
		t.Errorf("%+v", s)
	}
	close(sink.block)
	eventually(t, "healthy again", func() bool { return l.Healthy() == nil })
	l.Record(&Event{Kind: Exchange, Message: "after"})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	list := events(t, sink.text(), "")
	if len(list) != 11 {
		t.Fatalf("%d events", len(list))
	}
	gap := list[9]
	if gap.Kind != Lifecycle || gap.Count != 4 || !strings.Contains(gap.Message, "4 events were lost") {
		t.Errorf("in the place of the gap: %+v", gap)
	}
	if list[10].Message != "after" {
		t.Errorf("after the gap: %+v", list[10])
	}
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	sink := &memory{block: make(chan struct{})}
	l, stop := start(t, Options{Sink: sink, QueueBytes: 4096})
	for range 100 {
		l.Record(&Event{Kind: Exchange, Message: strings.Repeat("x", 1000)})
	}
	if s := l.Stats().Sinks[0]; s.QueueBytes > 4096 || s.Lost < 90 {
		t.Errorf("%+v", s)
	}
	if !errors.Is(l.Fault(), ErrQueueFull) {
		t.Errorf("fault: %v", l.Fault())
	}
	close(sink.block)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestEndWithBrokenSink(t *testing.T) {
	sink := &memory{fail: syscall.EIO}
	l, stop := start(t, Options{Sink: sink, Flush: 100 * time.Millisecond})
	for range 5 {
		l.Record(&Event{Kind: Exchange})
	}
	err := stop()
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "5 events") {
		t.Errorf("Run: %v", err)
	}
	if s := l.Stats().Sinks[0]; s.Lost != 5 {
		t.Errorf("%+v", s)
	}
	if !errors.Is(l.Healthy(), ErrClosed) {
		t.Errorf("healthy after the end: %v", l.Healthy())
	}
	l.Record(&Event{Kind: Exchange})
	if s := l.Stats().Sinks[0]; s.Lost != 6 {
		t.Errorf("an event after the end is not counted as lost: %+v", s)
	}
	if _, err := l.Subscribe(0); !errors.Is(err, ErrClosed) {
		t.Errorf("Subscribe after the end: %v", err)
	}
}

func TestSubscribe(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	for i := range 5 {
		l.Record(&Event{Kind: Exchange, Message: "old " + strconv.Itoa(i)})
	}
	eventually(t, "written", func() bool { return bytes.Count(sink.text(), newline) == 5 })
	sub, err := l.Subscribe(2)
	if err != nil {
		t.Fatal(err)
	}
	l.Record(&Event{Kind: Exchange, Message: "new"})
	for _, want := range []string{"old 3", "old 4", "new"} {
		line, err := sub.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var e Event
		if err := Decode(line.JSON, &e); err != nil || e.Message != want {
			t.Errorf("%s: %v, want %q", line.JSON, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	if _, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing to come: %v", err)
	}
	cancel()
	stop()
	if _, err := sub.Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	sub.Close()
}

func TestSlowSubscriber(t *testing.T) {
	sink := &memory{}
	l, stop := start(t, Options{Sink: sink})
	sub, err := l.Subscribe(0)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	const n = 3000
	for i := range n {
		l.Record(&Event{Kind: Exchange, Count: uint64(i + 1), Message: strings.Repeat("x", 1000)})
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if len(events(t, sink.text(), "")) != n {
		t.Fatal("the slow subscriber cost the sink events")
	}
	var lines, missed, size uint64
	for {
		line, err := sub.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		if line.JSON == nil {
			missed += line.Missed
			continue
		}
		if missed > 0 {
			t.Fatal("a line after the gap stands before its notice")
		}
		lines++
		size += uint64(len(line.JSON))
	}
	if lines+missed != n || missed == 0 || size > followerBytes {
		t.Errorf("%d lines (%d bytes) and %d missed of %d", lines, size, missed, n)
	}
}

func TestTooManySubscribers(t *testing.T) {
	l, _ := start(t, Options{Sink: &memory{}})
	var list []*Subscription
	for range MaxFollowers {
		s, err := l.Subscribe(0)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	if _, err := l.Subscribe(0); !errors.Is(err, ErrTooManyFollowers) {
		t.Errorf("one more: %v", err)
	}
	list[0].Close()
	if _, err := list[0].Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("a closed one: %v", err)
	}
	if _, err := l.Subscribe(0); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

func TestRecentIsBounded(t *testing.T) {
	var f followers
	var all []byte
	for i := range 20000 {
		line := fmt.Appendf(nil, "line %d %s\n", i, strings.Repeat("x", i%100))
		all = append(all, line...)
		f.publish(line)
		if len(f.recent) > 2*recentBytes {
			t.Fatalf("%d bytes are kept", len(f.recent))
		}
	}
	if len(f.recent) < recentBytes || !bytes.HasSuffix(all, f.recent) || !bytes.HasPrefix(f.recent, []byte("line ")) {
		t.Errorf("%d bytes are kept, beginning %.20q", len(f.recent), f.recent)
	}
	f.publish(bytes.Repeat([]byte("0123456789\n"), recentBytes/5))
	if len(f.recent) > 2*recentBytes || !bytes.HasSuffix(f.recent, bytes.Repeat([]byte("0123456789\n"), recentBytes/12)) {
		t.Errorf("%d bytes are kept, beginning %.20q", len(f.recent), f.recent)
	}
	if got := string(lastLines([]byte("a\nb\nc\n"), 2)); got != "b\nc\n" {
		t.Errorf("last lines %q", got)
	}
	if got := string(lastLines([]byte("a\n"), 5)); got != "a\n" {
		t.Errorf("last lines %q", got)
	}
}

func TestFilesAreReadInOrder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	line := func(message string) string {
		return encode(&Event{Time: at, ID: message, Kind: Lifecycle, Message: message}) + "\n"
	}
	for name, text := range map[string]string{
		"":   line("5") + `{"time":"torn`,
		".1": line("3") + "not json\n" + line("4"),
		".2": line("1") + line("2"),
		".4": line("0"), // beyond a gap
		// Not rotated files of this one:
		".04": line("x"), ".1.gz": line("x"), ".99999999": line("x"),
	} {
		if err := os.WriteFile(path+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(since time.Time) (messages, bad []string) {
		f, err := OpenFiles(path, since)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = f.Each(func(_ []byte, e *Event) bool {
			messages = append(messages, e.Message)
			return e.Message != "stop"
		}, func(file string, err *LineError) {
			bad = append(bad, filepath.Base(file)+":"+strconv.Itoa(err.Line))
		})
		if err != nil {
			t.Fatal(err)
		}
		return messages, bad
	}
	messages, bad := read(time.Time{})
	if got := strings.Join(messages, " "); got != "0 1 2 3 4 5" {
		t.Errorf("events %s", got)
	}
	if got := strings.Join(bad, " "); got != "audit.jsonl.1:2 audit.jsonl:2" {
		t.Errorf("bad lines %s", got)
	}
	old := time.Now().Add(-time.Hour)
	os.Chtimes(path+".2", old, old)
	os.Chtimes(path+".4", old, old)
	if messages, _ := read(time.Now().Add(-time.Minute)); strings.Join(messages, " ") != "3 4 5" {
		t.Errorf("since a minute: %s", messages)
	}
	if _, err := OpenFiles(filepath.Join(dir, "none"), time.Time{}); !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "none.1") {
		t.Errorf("no file: %v", err)
	}
}

func TestReaderPassesOverLongLines(t *testing.T) {
	good := encode(&Event{Time: at, ID: "x", Kind: Lifecycle}) + "\n"
	r := NewReader(strings.NewReader(strings.Repeat("x", MaxLine+100000) + "\n" + good))
	var e Event
	if _, err := r.Next(&e); !errors.Is(err, ErrLongLine) {
		t.Errorf("the long line: %v", err)
	}
	if _, err := r.Next(&e); err != nil || e.ID != "x" {
		t.Errorf("after it: %v", err)
	}
	if _, err := r.Next(&e); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func BenchmarkRecord(b *testing.B) {
	l, err := New(Options{Sink: discard{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	e := exchangeEvent()
	e.ID = ""
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			l.Record(e)
		}
	})
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(l.Stats().Sinks[0].Lost)/float64(b.N), "lost/op")
}

type discard struct{}

func (discard) Name() string                { return "discard" }
func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestRecordDoesNotAllocate(t *testing.T) {
	l, err := New(Options{Sink: discard{}})
	if err != nil {
		t.Fatal(err)
	}
	e := exchangeEvent()
	e.ID, e.Time = "", time.Time{}
	spare := make([]byte, 0, 1<<20)
	l.ways[0].queue.take(spare)
	n := testing.AllocsPerRun(200, func() { l.Record(e) })
	// A garbage collection may empty the pool.
	if n >= 1 {
		t.Errorf("%v allocations for each event", n)
	}
}
