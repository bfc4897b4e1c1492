package keeper

import (
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/ca"
)

// TestNotesWhileHealthWaits: whoever holds a namespace takes notes, and whoever
// holds the gate waits for namespaces. Telling how all is must therefore hold up
// no notes while it waits for either.
func TestNotesWhileHealthWaits(t *testing.T) {
	held := &namespace{name: "box"}
	k := &Keeper{
		log: zap.NewNop(), trust: &ca.Trust{}, gate: &gate{}, ready: make(chan struct{}),
		namespaces: &namespaces{open: map[uint64]*namespace{1: held}},
	}
	for name, lock := range map[string]*sync.Mutex{"the gate": &k.gate.mu, "a namespace": &held.mu} {
		lock.Lock()
		var asked sync.WaitGroup
		asked.Go(func() { k.healthArgs() })
		noted := make(chan struct{})
		go func() {
			defer close(noted)
			for range 20 {
				k.note("something")
				time.Sleep(5 * time.Millisecond)
			}
		}()
		select {
		case <-noted:
		case <-time.After(30 * time.Second):
			t.Errorf("%s is waited for, and nobody can take a note", name)
		}
		lock.Unlock()
		asked.Wait()
		<-noted
	}
}
