package bypass

import (
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
func (w *wire) packets() []outside.Packet {
	w.h.t.Helper()
	ns := w.h.namespace()
	defer ns.Close()
	return w.Packets(ns)
}
