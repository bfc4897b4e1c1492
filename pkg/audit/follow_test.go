package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
