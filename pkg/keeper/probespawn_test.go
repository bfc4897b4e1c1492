package keeper

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/pkg/keeper/protocol"
)

// TestProbeStuck: a probing process whose start does not come back is a failed probe
// after its time, and so is each further one, of which none is started; once it has
// come back enforcement can be proven again.
func TestProbeStuck(t *testing.T) {
	const pid = 4711
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	synctest.Test(t, func(t *testing.T) {
		var counter uint64
		var runs atomic.Int32
		held := make(chan struct{})
		p := &prober{
			to:       probed{probeCaptured, probeBlocked},
			target:   l.(*net.TCPListener),
			rejected: func() (uint64, error) { return counter, nil },
			run: func(context.Context, []*os.File) (int, string, error) {
				runs.Add(1)
				<-held
				counter++
				return pid, protocol.ProbeAnswer(probeCaptured, 0, pid) + "\nrefused\n", nil
			},
		}
		start := time.Now()
		if err := p.probe(t.Context()); !errors.Is(err, errProbeStuck) {
			t.Errorf("%v, want %v", err, errProbeStuck)
		}
		if took := time.Since(start); took != probeTimeout+probeEnds {
			t.Errorf("told after %v, want %v", took, probeTimeout+probeEnds)
		}
		start = time.Now()
		for range 3 {
			if err := p.probe(t.Context()); !errors.Is(err, errProbeStuck) {
				t.Errorf("%v, want %v", err, errProbeStuck)
			}
		}
		if took := time.Since(start); took != 0 || runs.Load() != 1 {
			t.Errorf("behind it %d runs were started, and waited for %v", runs.Load()-1, took)
		}
		close(held)
		synctest.Wait()
		if err := p.probe(t.Context()); err != nil || runs.Load() != 2 {
			t.Errorf("once it has come back: %v, %d runs", err, runs.Load())
		}
	})
}

// TestProbeTurn: a run has until probeEnds to end what it started, and what it was
// given is open until it has come back and closed then, or where it is not run.
func TestProbeTurn(t *testing.T) {
	open := func(f *os.File) bool { _, err := f.Stat(); return err == nil }
	file := func() *os.File {
		f, err := os.Open("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	synctest.Test(t, func(t *testing.T) {
		var turn probeTurn
		killed := errors.New("signal: killed")
		_, _, err := turn.take(t.Context(), func(context.Context, []*os.File) (int, string, error) { return 0, "", killed }, nil)
		if err != killed {
			t.Errorf("at once: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = turn.take(ctx, func(ctx context.Context, _ []*os.File) (int, string, error) {
			<-ctx.Done()
			time.Sleep(probeWaitDelay)
			return 0, "", killed
		}, nil)
		if err != killed {
			t.Errorf("ended at the end of its time: %v", err)
		}
		held := make(chan struct{})
		first, second := file(), file()
		stuck := func(context.Context, []*os.File) (int, string, error) { <-held; return 0, "", nil }
		if _, _, err := turn.take(ctx, stuck, []*os.File{first}); err != errProbeStuck || !open(first) {
			t.Errorf("stuck: %v, its file is open: %v", err, open(first))
		}
		if _, _, err := turn.take(t.Context(), stuck, []*os.File{second}); err != errProbeStuck || open(second) {
			t.Errorf("behind it: %v, its file is open: %v", err, open(second))
		}
		close(held)
		synctest.Wait()
		if open(first) {
			t.Error("the file of what has come back is open")
		}
	})
}
