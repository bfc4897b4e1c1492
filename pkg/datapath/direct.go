package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// Bounds of the direct rules, after bpf/types.h and bpf/maps.h.
const (
	directHead     = 128 // bits of the key before the address
	directIPv4     = 1 << 8
	directRanges   = 16   // port ranges that one prefix can have
	directPrefixes = 8192 // half of the map: two generations fit
	directNameLen  = 128
)

// directTable is what the daemon remembers of the rules in force.
type directTable struct {
	names    map[uint32]string
	prefixes int
}

// directPrefix is one prefix of one cgroup and protocol.
type directPrefix struct {
	cgroup   uint64
	protocol Protocol
	prefix   netip.Prefix
}

// SetDirect replaces all direct rules at once: each look-up sees the old rules or
// the new ones. Flows that no rule lists any more are cut off with their next
// packet. It fails, and changes nothing, where a prefix has more than 16 port
// ranges or where there are more than 8192 prefixes.
func (d *Datapath) SetDirect(rules []DirectRule) error {
	if d.absent {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	names, err := nameRules(rules)
	if err != nil {
		return err
	}
	table, err := flatten(rules, names)
	if err != nil {
		return err
	}
	// The next generation is filled beside the one in force; 0 is never one.
	old := d.config.Generation
	next := max(old+1, 1)
	if err := d.dropGenerations(old); err != nil {
		return err
	}
	for p, ranges := range table {
		if err := d.maps.Direct.Update(p.key(next), ranges, ebpf.UpdateAny); err != nil {
			return errors.Join(fmt.Errorf("datapath: direct rule for %s: %w", p.prefix, err), d.dropGenerations(old))
		}
	}
	for id, name := range names {
		var value [directNameLen]int8
		for i, c := range []byte(name) {
			value[i] = int8(c)
		}
		if err := d.maps.DirectRules.Update(id, value, ebpf.UpdateAny); err != nil {
			return errors.Join(fmt.Errorf("datapath: name of direct rule %q: %w", name, err), d.dropGenerations(old))
		}
	}
	d.config.Generation = next
	d.config.Direct = uint32(len(table))
	if err := d.writeConfig(); err != nil {
		return err
	}
	// Open flows of old rules still have names; of those only the last reload's.
	for id := range d.direct.names {
		if _, ok := names[id]; !ok {
			if err := d.maps.DirectRules.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("datapath: name of a direct rule: %w", err)
			}
		}
	}
	d.direct = directTable{names: names, prefixes: len(table)}
	return d.dropGenerations(next)
}

// dropGenerations deletes every prefix that is not of this generation.
func (d *Datapath) dropGenerations(keep uint32) error {
	var key bpf.SallyportSpDirectKey
	var value bpf.SallyportSpRanges
	var gone []bpf.SallyportSpDirectKey
	it := d.maps.Direct.Iterate()
	for it.Next(&key, &value) {
		if key.Generation != keep {
			gone = append(gone, key)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("datapath: direct rules: %w", err)
	}
	for _, key := range gone {
		if err := d.maps.Direct.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("datapath: direct rules: %w", err)
		}
	}
	return nil
}

// nameRules gives each rule's name an id that stays the same over reloads and
// restarts as long as the name does.
func nameRules(rules []DirectRule) (map[uint32]string, error) {
	names := make(map[uint32]string)
	for _, r := range rules {
		if len(r.Rule) >= directNameLen || bytes.IndexByte([]byte(r.Rule), 0) >= 0 {
			return nil, fmt.Errorf("datapath: name of direct rule %.40q…: over %d bytes, or with a NUL", r.Rule, directNameLen-1)
		}
		names[ruleID(names, r.Rule)] = r.Rule
	}
	return names, nil
}

// ruleID gives the id under which names has or may have the name; never 0, which
// means none.
func ruleID(names map[uint32]string, name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // hash.Hash never fails
	for id := h.Sum32(); ; id++ {
		if id == 0 {
			continue
		}
		if other, ok := names[id]; !ok || other == name {
			return id
		}
	}
}

// flatten gives each prefix the port ranges of every rule that covers it: the
// kernel's longest match stops at the first prefix it finds.
func flatten(rules []DirectRule, names map[uint32]string) (map[directPrefix]bpf.SallyportSpRanges, error) {
	byPrefix := make(map[directPrefix][]int)
	for i, r := range rules {
		if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("datapath: direct rule %q: %s is not a prefix", r.Rule, r.Prefix)
		}
		if r.First > r.Last {
			return nil, fmt.Errorf("datapath: direct rule %q: ports %d-%d", r.Rule, r.First, r.Last)
		}
		if r.Protocol != TCP && r.Protocol != UDP {
			return nil, fmt.Errorf("datapath: direct rule %q: protocol %s", r.Rule, r.Protocol)
		}
		p := directPrefix{r.Cgroup, r.Protocol, r.Prefix}
		byPrefix[p] = append(byPrefix[p], i)
	}
	if len(byPrefix) > directPrefixes {
		return nil, fmt.Errorf("datapath: %d prefixes in direct rules; at most %d fit", len(byPrefix), directPrefixes)
	}
	table := make(map[directPrefix]bpf.SallyportSpRanges, len(byPrefix))
	for p := range byPrefix {
		var covering []int
		for bits := 0; bits <= p.prefix.Bits(); bits++ {
			wider := p
			wider.prefix = netip.PrefixFrom(p.prefix.Addr(), bits).Masked()
			covering = append(covering, byPrefix[wider]...)
		}
		ranges, err := portRanges(rules, covering, names)
		if err != nil {
			return nil, fmt.Errorf("datapath: direct rules for %s: %w", p.prefix, err)
		}
		table[p] = ranges
	}
	return table, nil
}

// portRanges puts the ports of these rules in the order of the rules. A range that
// lies in an earlier one can never be the first match.
func portRanges(rules []DirectRule, which []int, names map[uint32]string) (out bpf.SallyportSpRanges, err error) {
	slices.Sort(which)
next:
	for _, i := range which {
		r := rules[i]
		for _, have := range out.R[:out.N] {
			if have.First <= r.First && r.Last <= have.Last {
				continue next
			}
		}
		if out.N == directRanges {
			return out, fmt.Errorf("more than %d port ranges", directRanges)
		}
		slot := &out.R[out.N]
		slot.Order = uint32(i)
		slot.Rule = ruleID(names, r.Rule)
		slot.First, slot.Last = r.First, r.Last
		out.N++
	}
	return out, nil
}

func (p directPrefix) key(generation uint32) bpf.SallyportSpDirectKey {
	k := bpf.SallyportSpDirectKey{
		Prefixlen:  uint32(directHead + p.prefix.Bits()),
		Generation: generation,
		Cgroup:     [2]uint32{uint32(p.cgroup), uint32(p.cgroup >> 32)},
		Protocol:   uint32(p.protocol),
		Addr:       words(p.prefix.Addr()),
	}
	if p.prefix.Addr().Is4() {
		k.Prefixlen += 96
		k.Protocol |= directIPv4
	}
	return k
}

// readBackRules counts what is in force, for Resources, and learns the names.
func (d *Datapath) readBackRules() error {
	var id uint32
	var name [directNameLen]int8
	it := d.maps.DirectRules.Iterate()
	for it.Next(&id, &name) {
		text := make([]byte, 0, directNameLen)
		for _, c := range name {
			if c == 0 {
				break
			}
			text = append(text, byte(c))
		}
		d.direct.names[id] = string(text)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("datapath: names of direct rules: %w", err)
	}
	d.direct.prefixes = int(d.config.Direct)
	var err error
	if d.own, err = entries(d.maps.Own); err != nil {
		return err
	}
	d.inbound, err = entries(d.maps.Inbound)
	return err
}

// entries counts the keys of a small map.
func entries(m *ebpf.Map) (n int, err error) {
	key := make([]byte, m.KeySize())
	value := make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	if err := it.Err(); err != nil {
		return 0, fmt.Errorf("datapath: %s: %w", m, err)
	}
	return n, nil
}
