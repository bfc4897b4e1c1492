package address

import "net/netip"

// Exemptions are the entries of a rule that speak for address classes. An entry
// exempts what it holds from each class in which it lies wholly: 10.0.0.0/8
// exempts private addresses, 0.0.0.0/0 exempts nothing.
type Exemptions []exemption

type exemption struct {
	prefix  netip.Prefix
	classes Classes
}

// Exempt makes the exemptions of a rule's entries.
func Exempt(entries ...[]netip.Prefix) Exemptions {
	var all Exemptions
	for _, list := range entries {
		for _, p := range list {
			c := Within(p)
			if p.IsSingleIP() {
				// The one address of the host that it names.
				c |= Own
			}
			if c != 0 {
				all = append(all, exemption{prefix: p.Masked(), classes: c})
			}
		}
	}
	return all
}

// Permit reports whether the address may be contacted, and if not, the classes
// that forbid it. own reports the addresses of the host itself; without it
// nothing is permitted, since any address could be one. It does not allocate.
func (x Exemptions) Permit(addr netip.Addr, own func(netip.Addr) bool) (bool, Classes) {
	if !addr.IsValid() || own == nil || addr.Zone() != "" {
		return false, Own
	}
	addr = addr.Unmap()
	left := classify(addr, own) &^ x.of(addr, addr)
	embedded, n := embeddedIn(addr)
	for _, e := range embedded[:n] {
		left |= classify(e, own) &^ x.of(addr, e)
	}
	return left == 0, left
}

// of gives the classes from which an address is exempt when it is judged as
// what it embeds.
func (x Exemptions) of(addr, judged netip.Addr) (c Classes) {
	for i := range x {
		if x[i].prefix.Contains(addr) || x[i].prefix.Contains(judged) {
			c |= x[i].classes
		}
	}
	return c
}
