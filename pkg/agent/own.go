package agent

import (
	"net/netip"

	"sallyport/pkg/netns"
)

// own knows the host's addresses, our listeners, and what is local to the
// workloads' other network namespaces.
type own struct {
	book      *netns.AddressBook
	listeners map[netip.AddrPort]struct{}
	// home is the cookie of the worker's own network namespace.
	home   uint64
	locals locals
}

func newOwn(home uint64, listeners []netip.AddrPort) (*own, error) {
	book, err := netns.NewAddressBook(nil)
	if err != nil {
		return nil, err
	}
	o := &own{book: book, home: home, listeners: make(map[netip.AddrPort]struct{}, len(listeners))}
	for _, l := range listeners {
		o.listeners[l] = struct{}{}
	}
	return o, nil
}

// Host reports whether an address is one of the host's.
func (o *own) Host(a netip.Addr) bool { return o.book.Contains(a) }

// Elsewhere reports whether an address is local to a network namespace that is
// not the worker's.
func (o *own) Elsewhere(netns uint64, a netip.Addr) bool {
	return netns != o.home && o.locals.contains(netns, a)
}

// Listener reports whether we listen there ourselves. The kernel takes the
// unspecified address for loopback when it connects, and a listener on it answers
// at every address of the host.
func (o *own) Listener(a netip.AddrPort) bool {
	addr := a.Addr().Unmap()
	has := func(addr netip.Addr) bool {
		_, ok := o.listeners[netip.AddrPortFrom(addr, a.Port())]
		return ok
	}
	if has(addr) {
		return true
	}
	if addr.IsUnspecified() {
		return has(loopback4) || has(loopback6) || has(any4) || has(any6)
	}
	return (has(any4) || has(any6)) && (addr.IsLoopback() || o.Host(addr))
}

var (
	any4, any6 = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	loopback4  = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6  = netip.IPv6Loopback()
)
