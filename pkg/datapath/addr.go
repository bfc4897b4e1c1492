package datapath

import (
	"encoding/binary"
	"net/netip"

	"sallyport/bpf"
)

// words gives an address as the programs keep it: 16 bytes in network order,
// IPv4 mapped into IPv6. A zone is not part of it.
func words(a netip.Addr) (w bpf.SallyportSpAddr) {
	b := a.As16()
	for i := range w.W {
		w.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func endpoint(a netip.AddrPort) (e bpf.SallyportSpEndpoint) {
	if !a.IsValid() {
		return e
	}
	e.Addr = words(a.Addr())
	e.Port = a.Port()
	return e
}

// addrPort is the reverse of words. An address and port that are both zero were
// never written.
func addrPort(w bpf.SallyportSpAddr, port uint16) netip.AddrPort {
	var b [16]byte
	for i, v := range w.W {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	if port == 0 && b == [16]byte{} {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom16(b).Unmap(), port)
}
