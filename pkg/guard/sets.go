package guard

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// A setBuilder collects the elements of all sets of the table.
type setBuilder struct {
	sets  []set
	index map[string]int
}

// newSetBuilder has every set of the table, empty, for the levels in use.
func newSetBuilder(depths []int) *setBuilder {
	b := &setBuilder{index: map[string]int{}}
	for _, v := range versions() {
		b.define(set{
			name: localName + v.suffix, comment: "our listeners and resolvers", capacity: localCapacity,
			key: fields(nftables.TypeInetProto, v.addr, nftables.TypeInetService),
		})
		b.define(set{
			name: directName + v.suffix, comment: "direct, for each workload", capacity: directCapacity, interval: true,
			key: fields(nftables.TypeInetProto, v.addr, nftables.TypeInetService),
		})
	}
	for _, level := range depths {
		b.define(set{
			name: named(taggedName, level), comment: "tagged workloads", capacity: taggedCapacity,
			key: nftables.TypeCGroupV2,
		})
		b.define(set{
			name: named(refusedName, level), comment: "refused packets of each", capacity: taggedCapacity, counting: true,
			key: nftables.TypeCGroupV2,
		})
		b.define(set{
			name: named(droppedName, level), comment: "dropped connection attempts to each", capacity: taggedCapacity, counting: true,
			key: nftables.TypeCGroupV2,
		})
		b.define(set{
			name: named(inboundName, level), comment: "ports that may answer", capacity: inboundCapacity,
			key: fields(nftables.TypeCGroupV2, nftables.TypeInetService),
		})
		for _, v := range versions() {
			b.define(set{
				name: named(directName+v.suffix+"_", level), comment: "direct", capacity: directCapacity, interval: true,
				key: fields(nftables.TypeCGroupV2, nftables.TypeInetProto, v.addr, nftables.TypeInetService),
			})
		}
	}
	return b
}

// fields is the type of concatenated fields. It panics for more than five, which
// is a mistake in newSetBuilder.
func fields(types ...nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(types...)
}

func (b *setBuilder) define(s set) {
	b.index[s.name] = len(b.sets)
	s.id = uint32(len(b.sets) + 1)
	b.sets = append(b.sets, s)
}

func (b *setBuilder) add(name string, e element) {
	s := &b.sets[b.index[name]]
	s.elements = append(s.elements, e)
}

// addLocal adds one of our own sockets.
func (b *setBuilder) addLocal(what string, p Protocol, a netip.AddrPort) error {
	a, err := endpoint(what, a)
	if err != nil {
		return err
	}
	b.add(localName+suffix(a.Addr()), local(p, a))
	return nil
}

// suffix is that of the names for an address's version of IP.
func suffix(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// finish sorts the elements, drops repeated ones and demands that they fit.
func (b *setBuilder) finish() ([]set, error) {
	for i := range b.sets {
		s := &b.sets[i]
		slices.SortFunc(s.elements, func(a, b element) int {
			return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.end, b.end))
		})
		s.elements = slices.Compact(s.elements)
		if len(s.elements) > s.capacity {
			return nil, fmt.Errorf("set %s: %d elements, but only %d fit", s.name, len(s.elements), s.capacity)
		}
	}
	return b.sets, nil
}
