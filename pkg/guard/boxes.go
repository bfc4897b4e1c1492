package guard

import (
	"cmp"
	"net/netip"
	"slices"
)

// A ports is a range of ports, both ends included.
type ports struct{ first, last uint16 }

// A box is what one element of a direct set covers: a prefix and a range of
// ports for one protocol and one cgroup.
type box struct {
	cgroup   uint64
	protocol Protocol
	prefix   netip.Prefix
	ports    ports
}

// disjoint rewrites direct rules as boxes of which no two overlap and which
// together cover the same addresses and ports: the kernel's interval sets refuse
// overlapping elements (nft_set_pipapo: ENOTEMPTY). The result is sorted and
// depends only on what is covered by which prefix, not on the order of the rules.
//
// Two prefixes are either disjoint or nested. So a prefix keeps, of its own
// ports, those that no prefix around it has.
func disjoint(rules []Direct) []box {
	type owner struct {
		cgroup   uint64
		protocol Protocol
	}
	own := map[owner]map[netip.Prefix][]ports{}
	for _, d := range rules {
		o := owner{d.Cgroup, d.Protocol}
		if own[o] == nil {
			own[o] = map[netip.Prefix][]ports{}
		}
		own[o][d.Prefix] = append(own[o][d.Prefix], ports{d.First, d.Last})
	}
	var boxes []box
	for o, prefixes := range own {
		for prefix, ranges := range prefixes {
			left := merge(ranges)
			for bits := range prefix.Bits() {
				around, err := prefix.Addr().Prefix(bits)
				if err != nil {
					continue // not reached: bits is below the prefix's own length
				}
				if ranges, ok := prefixes[around]; ok {
					left = subtract(left, merge(ranges))
				}
			}
			for _, p := range left {
				boxes = append(boxes, box{o.cgroup, o.protocol, prefix, p})
			}
		}
	}
	slices.SortFunc(boxes, func(a, b box) int {
		return cmp.Or(
			cmp.Compare(a.cgroup, b.cgroup),
			cmp.Compare(a.protocol, b.protocol),
			a.prefix.Addr().Compare(b.prefix.Addr()),
			cmp.Compare(a.prefix.Bits(), b.prefix.Bits()),
			cmp.Compare(a.ports.first, b.ports.first),
		)
	})
	return boxes
}

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []ports) []ports {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b ports) int { return cmp.Compare(a.first, b.first) })
	var merged []ports
	for _, r := range ranges {
		last := len(merged) - 1
		if last >= 0 && int(r.first) <= int(merged[last].last)+1 {
			merged[last].last = max(merged[last].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// subtract gives what of a is not in b; both are results of merge.
func subtract(a, b []ports) []ports {
	var left []ports
	for _, r := range a {
		first, last := int(r.first), int(r.last)
		for _, hole := range b {
			if int(hole.last) < first || int(hole.first) > last {
				continue
			}
			if int(hole.first) > first {
				left = append(left, ports{uint16(first), hole.first - 1})
			}
			first = int(hole.last) + 1
		}
		if first <= last {
			left = append(left, ports{uint16(first), uint16(last)})
		}
	}
	return left
}

// last gives the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}
