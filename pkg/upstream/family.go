package upstream

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// A family is IPv4 or IPv6.
type family uint8

const (
	anyFamily family = iota
	ipv4
	ipv6
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

func (f family) other() family {
	switch f {
	case ipv4:
		return ipv6
	case ipv6:
		return ipv4
	default:
		return anyFamily
	}
}

// lostTime is how long it is remembered that a family does not work (RFC 8305
// section 5 leaves it to the client). Then it is tried first again.
const lostTime = 10 * time.Minute

// A lostFamily is the one that lately lost against the other: it failed, or had
// no answer within one stagger. Without that memory each connection to such a
// host would wait anew, and none could be reused, because the one that there is
// does not go to the address that the workload dialled. The zero value
// remembers nothing.
type lostFamily struct {
	// packed is the end of the memory in ns since the pool's start, times four,
	// plus the family.
	packed atomic.Int64
}

func (l *lostFamily) set(f family, now time.Duration) {
	l.packed.Store(int64(now+lostTime)<<2 | int64(f))
}

func (l *lostFamily) get(now time.Duration) family {
	v := l.packed.Load()
	if time.Duration(v>>2) <= now {
		return anyFamily
	}
	return family(v & 3)
}

// Permits reports whether a connection to a may serve the route, as Route does,
// and also where the workload's own address is of a family that lately did not
// work and a is one of the others.
func (h *Host) Permits(r Route, a netip.Addr) bool {
	if r.Permits(a) {
		return true
	}
	lost := h.lost.get(time.Since(h.pool.start))
	return lost != anyFamily && familyOf(r.Own) == lost && familyOf(a) != lost && slices.Contains(r.Addrs, a)
}
