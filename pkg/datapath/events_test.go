package datapath_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

// Equal refusals come as one event a second with their number.
func TestRefusalsAreTold(t *testing.T) {
	w := newWorld(t)
	if err := w.d.RemoveListeners(w.netns); err != nil {
		t.Fatal(err)
	}
	c := w.spawn(w.workload("a"))
	const tries = 300
	fd := c.tcp(unix.AF_INET)
	start := time.Now()
	for range tries {
		c.fails(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"}, unix.EPERM)
	}
	var events, count uint64
	w.await("all refusals told", func() bool {
		events, count = 0, 0
		for _, e := range w.events {
			if e.Reason == datapath.NoListener {
				events, count = events+1, count+e.Count
			}
		}
		return count >= tries
	})
	if most := 3 + uint64(time.Since(start)/time.Second); count != tries || events > most {
		t.Errorf("%d refusals in %d events, want %d in at most %d", count, events, tries, most)
	}
	if n := w.refused(datapath.NoListener); n != tries {
		t.Errorf("counted %d, want %d", n, tries)
	}
}

// What does not fit into the buffer while nobody reads it is counted, and refused
// all the same.
func TestEventsThatFindNoRoomAreCounted(t *testing.T) {
	w := newWorld(t, func(o *datapath.Options) { o.EventBuffer = 1 }) // a page
	w.stopEvents()
	lost := func() uint64 {
		t.Helper()
		n, err := w.d.EventsLost()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := lost(); n != 0 {
		t.Fatalf("%d lost before anything happened", n)
	}
	c := w.spawn(w.workload("a"))
	before := w.refused(datapath.UDPDenied)
	const attempts = 100 // of more than 100 bytes each
	for port := range attempts {
		c.fails(call{Op: "sendto", FD: c.udp(unix.AF_INET), Addr: netip.AddrPortFrom(outside4, uint16(1000+port)).String(), Data: "x"}, unix.EPERM)
	}
	if n := w.refused(datapath.UDPDenied) - before; n != attempts {
		t.Errorf("%d refusals counted, want %d", n, attempts)
	}
	if n := lost(); n == 0 || n >= attempts {
		t.Errorf("%d of %d events lost, want those beyond one page", n, attempts)
	}
	w.sealed()
}

// Events ends when its context does, not with the period of refusals.
func TestEventsEndWithTheirContext(t *testing.T) {
	w := newWorld(t)
	w.stopEvents()
	quickest := time.Hour
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.d.Events(ctx, func(datapath.Event) {}) }()
		time.Sleep(30 * time.Millisecond) // it waits by now
		start := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		quickest = min(quickest, time.Since(start))
	}
	if quickest > 500*time.Millisecond {
		t.Errorf("it goes on for %v at least", quickest)
	}
}
