package balance

import (
	"net/netip"
	"time"
)

// Addresses are those of a target's host at a time.
type Addresses struct {
	Addrs []netip.Addr
	At    time.Time
}

// Addresses gives those of the target that were found out no longer than age
// ago, nil without.
func (t *Target) Addresses(now time.Time, age time.Duration) *Addresses {
	if a := t.addrs.Load(); a != nil && now.Sub(a.At) < age {
		return a
	}
	return nil
}

// Found remembers the addresses of the target.
func (t *Target) Found(addrs []netip.Addr, now time.Time) *Addresses {
	a := &Addresses{addrs, now}
	t.addrs.Store(a)
	return a
}
