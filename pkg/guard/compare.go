package guard

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A Problem is one difference between the table in the kernel and what it must
// be.
type Problem struct {
	// Object names what is wrong, for example "chain output".
	Object string
	// Detail says how.
	Detail string
}

// String gives the problem as one line.
func (p Problem) String() string { return p.Object + ": " + p.Detail }

// policyAccept is NF_ACCEPT of linux/netfilter.h.
const policyAccept = 1

// expected is a ruleset in the form in which the kernel lists it.
type expected struct {
	ruleset
	shapes   map[string]setShape
	elements map[string]map[element]struct{}
	bodies   map[string][]string // rules by chain
}

// expect works a ruleset out once, for many comparisons.
func expect(r ruleset) (*expected, error) {
	e := &expected{r, map[string]setShape{}, map[string]map[element]struct{}{}, map[string][]string{}}
	for _, s := range r.sets {
		e.shapes[s.name] = s.shape()
		elements := make(map[element]struct{}, len(s.elements))
		for _, el := range s.elements {
			elements[el] = struct{}{}
		}
		e.elements[s.name] = elements
	}
	for _, c := range r.chains {
		bodies := make([]string, 0, len(c.rules))
		for _, rule := range c.rules {
			body, err := describeBody(rule.body)
			if err != nil {
				return nil, fmt.Errorf("chain %s: %w", c.name, err)
			}
			bodies = append(bodies, body)
		}
		e.bodies[c.name] = bodies
	}
	return e, nil
}

// shape is what the kernel will say about the set.
func (s set) shape() setShape {
	shape := setShape{
		keyType:   s.key.GetNFTMagic(),
		keyLength: s.key.Bytes,
		capacity:  uint32(s.capacity),
		counting:  s.counting,
	}
	if s.interval {
		shape.flags = unix.NFT_SET_INTERVAL | nftSetConcat
		var lengths []string
		for _, field := range nftables.ConcatSetTypeElements(s.key) {
			lengths = append(lengths, fmt.Sprint(field.Bytes))
		}
		shape.concat = strings.Join(lengths, ".")
	}
	return shape
}

// compare lists how the kernel's table differs from the expected one; none means
// that the guard is as it must be. Counters' values do not matter.
func compare(want *expected, got snapshot) []Problem {
	if !got.exists {
		return []Problem{{"table", "missing"}}
	}
	var problems []Problem
	report := func(object, format string, args ...any) {
		problems = append(problems, Problem{object, fmt.Sprintf(format, args...)})
	}
	if got.flags != want.flags {
		report("table", "has flags %#x (dormant is %#x), want %#x", got.flags, unix.NFT_TABLE_F_DORMANT, want.flags)
	}
	for _, c := range want.chains {
		have, ok := got.chains[c.name]
		if !ok {
			report("chain "+c.name, "missing")
			continue
		}
		for _, detail := range compareBase(c, have) {
			report("chain "+c.name, "%s", detail)
		}
		if detail := compareRules(want.bodies[c.name], have.rules); detail != "" {
			report("chain "+c.name, "%s", detail)
		}
	}
	for _, s := range want.sets {
		have, ok := got.sets[s.name]
		if !ok {
			report("set "+s.name, "missing")
			continue
		}
		if have.shape != want.shapes[s.name] {
			report("set "+s.name, "is of another kind: %+v, want %+v", have.shape, want.shapes[s.name])
		}
		missing, extra := difference(want.elements[s.name], have)
		if len(missing) > 0 {
			report("set "+s.name, "%d of %d elements missing", len(missing), len(want.elements[s.name]))
		}
		if n := len(extra) + have.foreign; n > 0 {
			report("set "+s.name, "%d elements that do not belong there", n)
		}
	}
	for _, name := range want.counters {
		if _, ok := got.counters[name]; !ok {
			report("counter "+name, "missing")
		}
	}
	for _, name := range strangers(want.names(), got) {
		report(name, "does not belong to the table")
	}
	if n := len(got.chains) + len(got.sets) + len(got.counters); int(got.uses) != n {
		report("table", "holds %d objects that are no chain, set or counter", int(got.uses)-n)
	}
	return problems
}

// compareBase says how a chain's hook differs.
func compareBase(want chain, have kernelChain) []string {
	if want.hook == nil {
		if have.base {
			return []string{"has a hook, want none"}
		}
		return nil
	}
	if !have.base {
		return []string{"has no hook"}
	}
	var details []string
	if have.kind != string(want.family()) {
		details = append(details, fmt.Sprintf("type %s, want %s", have.kind, want.family()))
	}
	if have.hook != *want.hook {
		details = append(details, fmt.Sprintf("hook %d, want %d", have.hook, *want.hook))
	}
	if have.priority != want.priority() {
		details = append(details, fmt.Sprintf("priority %d, want %d", have.priority, want.priority()))
	}
	if have.policy != policyAccept {
		details = append(details, "policy drop, want accept: what is not tagged is not ours")
	}
	return details
}

// compareRules says how a chain's rules differ; "" for not at all.
func compareRules(want, have []string) string {
	if slices.Equal(want, have) {
		return ""
	}
	if len(want) != len(have) {
		return fmt.Sprintf("%d rules, want %d", len(have), len(want))
	}
	for i := range want {
		if want[i] != have[i] {
			return fmt.Sprintf("rule %d is another one: %s", i+1, have[i])
		}
	}
	return ""
}

// difference lists the elements that a set lacks, and those too many in it.
func difference(want map[element]struct{}, have kernelSet) (missing, extra []element) {
	for e := range want {
		if _, ok := have.elements[e]; !ok {
			missing = append(missing, e)
		}
	}
	for e := range have.elements {
		if _, ok := want[e]; !ok {
			extra = append(extra, e)
		}
	}
	return missing, extra
}

// names lists what belongs to the table, as strangers names it.
func (r ruleset) names() map[string]bool {
	names := map[string]bool{}
	for _, c := range r.chains {
		names["chain "+c.name] = true
	}
	for _, s := range r.sets {
		names["set "+s.name] = true
	}
	for _, c := range r.counters {
		names["counter "+c] = true
	}
	return names
}

// strangers lists, sorted, what is in the kernel's table and not among names.
func strangers(names map[string]bool, got snapshot) []string {
	var found []string
	check := func(name string) {
		if !names[name] {
			found = append(found, name)
		}
	}
	for name := range maps.Keys(got.chains) {
		check("chain " + name)
	}
	for name := range maps.Keys(got.sets) {
		check("set " + name)
	}
	for name := range maps.Keys(got.counters) {
		check("counter " + name)
	}
	slices.Sort(found)
	return found
}
