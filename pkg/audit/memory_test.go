package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
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
