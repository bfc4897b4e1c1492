package e2e

import (
	"os"
	"strconv"

	"sallyport/test/outside"
)

// A wire sees every packet that comes out of the host's cable, whoever sent it.
type wire struct {
	*outside.Wire
	h *host
}

// tap listens on the internet's end of the cable.
func (h *host) tap() *wire {
	h.t.Helper()
	return &wire{outside.Tap(h.t, h.net.ns, "ve0", originV4+":9"), h}
}

// packets gives every packet since the last call: those that left before the
// call are among them.
func (w *wire) packets() []string {
	w.h.t.Helper()
	ns, err := os.Open("/proc/" + strconv.Itoa(w.h.pid) + "/ns/net")
	if err != nil {
		w.h.t.Fatal(err)
	}
	defer ns.Close()
	var texts []string
	for _, p := range w.Packets(ns) {
		texts = append(texts, p.Text)
	}
	return texts
}

// silent fails if anything has left the host since the last look.
func (w *wire) silent(what string) {
	w.h.t.Helper()
	if seen := w.packets(); len(seen) > 0 {
		w.h.t.Errorf("%s: %d packets left the host, the first %q", what, len(seen), seen[0])
	}
}
