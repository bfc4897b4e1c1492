package audit

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
