package keeper

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/ca"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// TestReadyIsTold: a keeper says that it is ready once a worker, which answers for the
// status, has taken it, and not before.
func TestReadyIsTold(t *testing.T) {
	ours, theirs, err := wire.Pair()
	if err != nil {
		t.Fatal(err)
	}
	var refuses atomic.Bool
	got := make(chan protocol.HealthArgs)
	startPeer(t, theirs, map[string]wire.Handler{
		protocol.Health: func(_ context.Context, m *wire.Message) (any, []*os.File, error) {
			var h protocol.HealthArgs
			if err := m.Decode(&h); err != nil {
				t.Error(err)
			}
			got <- h
			if refuses.Load() {
				return nil, nil, errors.New("not now")
			}
			return nil, nil, nil
		},
	})
	p := &process{peer: startPeer(t, ours, nil)}
	k := &Keeper{
		log: zap.NewNop(), trust: &ca.Trust{}, gate: &gate{}, namespaces: &namespaces{}, worker: p,
		ready: make(chan struct{}), told: make(chan struct{}), reports: make(chan struct{}, 1),
	}
	go k.reportLoop(t.Context())
	told := func() bool {
		select {
		case <-k.Ready():
			return true
		default:
			return false
		}
	}
	// tell has the worker told; what it was told before has been answered by then.
	tell := func(ready bool) {
		t.Helper()
		k.prodReport()
		select {
		case h := <-got:
			if h.Ready != ready {
				t.Errorf("the worker was told ready %v, want %v", h.Ready, ready)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the worker was not told")
		}
	}
	prove := func(with *process) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.proven = with
	}
	tell(false)
	tell(false)
	if told() {
		t.Error("it says that it is ready without a proof")
	}
	refuses.Store(true)
	prove(p)
	close(k.ready)
	tell(true)
	tell(true)
	if told() {
		t.Error("it says that it is ready before a worker knows")
	}
	prove(nil) // a worker that came since
	tell(false)
	refuses.Store(false)
	tell(false)
	tell(false)
	if told() {
		t.Error("it says that it is ready where only a worker before was proven")
	}
	prove(p)
	tell(true)
	select {
	case <-k.Ready():
	case <-time.After(30 * time.Second):
		t.Error("it does not say that it is ready")
	}
}

func startPeer(t *testing.T, f *os.File, handlers map[string]wire.Handler) *wire.Peer {
	t.Helper()
	c, err := wire.NewConn(f)
	if err != nil {
		t.Fatal(err)
	}
	p := wire.NewPeer(c, handlers)
	go p.Run(t.Context())
	return p
}
