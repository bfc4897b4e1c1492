package e2e

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"sallyport/test/outside"
)

// A wire sees every packet that comes out of the host's cable, whoever sent it.
type wire struct {
	*outside.Wire
	h *host
}

// tap listens on the internet's end of the cable. Both ends know each other from then
// on: nothing waits for an answer of ARP or neighbour discovery, and is seen only in
// the next look.
func (h *host) tap() *wire {
	h.t.Helper()
	inNetnsOf(h.t, h, func() {
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			h.t.Error(err)
			return
		}
		defer ns.Close()
		near, far := outside.End{Namespace: ns, Interface: "eth0"}, outside.End{Namespace: h.net.ns, Interface: "ve0"}
		if err := errors.Join(outside.Acquaint(near, far, addressesOf(h.t, far)...), outside.Acquaint(far, near, addressesOf(h.t, near)...)); err != nil {
			h.t.Error(err)
		}
	})
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

// addressesOf gives the addresses of an end of a cable.
func addressesOf(t *testing.T, e outside.End) (all []netip.Addr) {
	t.Helper()
	inNetns(t, e.Namespace, func() {
		cable, err := net.InterfaceByName(e.Interface)
		if err != nil {
			t.Error(err)
			return
		}
		addresses, err := cable.Addrs()
		if err != nil {
			t.Error(err)
		}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				all = append(all, p.Addr())
			}
		}
	})
	return all
}
