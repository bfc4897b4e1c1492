package agent

import (
	"net/netip"

	"sallyport/pkg/netns"
)

// own knows the host's addresses and our listeners.
type own struct {
	book      *netns.AddressBook
	listeners map[netip.AddrPort]struct{}
}

func newOwn(listeners []netip.AddrPort) (*own, error) {
	book, err := netns.NewAddressBook(nil)
	if err != nil {
		return nil, err
	}
	o := &own{book: book, listeners: make(map[netip.AddrPort]struct{}, len(listeners))}
	for _, l := range listeners {
		o.listeners[l] = struct{}{}
	}
	return o, nil
}

// Host reports whether an address is one of the host's.
func (o *own) Host(a netip.Addr) bool { return o.book.Contains(a) }

// Listener reports whether we listen there ourselves.
func (o *own) Listener(a netip.AddrPort) bool {
	_, ok := o.listeners[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())]
	return ok
}
