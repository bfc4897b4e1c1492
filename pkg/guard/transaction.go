package guard

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A transaction is what one batch does to the table. nf_tables applies a batch
// as a whole: packets meet the rules of before or of after, never a part
// (rules of a chain change by switching the generation that is in use).
type transaction struct {
	remake             bool // delete the table first; everything else is then new
	create             bool // add the table
	addCounters        []string
	addSets            []set // without their elements
	addElements        []elementChange
	addChains, rewrite []chain // rewrite: replace all rules
	removeElements     []elementChange
	removeChains       []string
	removeSets         []string
	removeCounters     []string
	vanish             bool // delete the table at the end: a probe
	flags              uint32
}

// An elementChange adds elements to a set or removes them from it.
type elementChange struct {
	set      set
	elements []element
}

// plan gives the transaction that turns the kernel's table into the expected
// one. It changes as little as it can: elements one by one, rules chain by
// chain. Only what cannot be changed in place (the hook or priority of a chain,
// the kind of a set, a sleeping table, things of unknown kind) remakes the
// table; then it was somebody else who made the hole.
func plan(want *expected, got snapshot) transaction {
	if !got.exists {
		return remake(want, false)
	}
	if mustRemake(want, got) {
		return remake(want, true)
	}
	var t transaction
	for _, name := range want.counters {
		if _, ok := got.counters[name]; !ok {
			t.addCounters = append(t.addCounters, name)
		}
	}
	for _, s := range want.sets {
		have, ok := got.sets[s.name]
		if !ok {
			t.addSets = append(t.addSets, s)
		}
		missing, extra := difference(want.elements[s.name], have)
		t.addElements = appendChange(t.addElements, s, missing)
		t.removeElements = appendChange(t.removeElements, s, extra)
	}
	for _, c := range want.chains {
		have, ok := got.chains[c.name]
		if !ok || c.hook != nil && have.policy != policyAccept {
			t.addChains = append(t.addChains, c)
		}
		if !slices.Equal(want.bodies[c.name], have.rules) {
			t.rewrite = append(t.rewrite, c)
		}
	}
	names := want.names()
	t.removeChains = unwanted(names, "chain ", got.chains)
	t.removeSets = unwanted(names, "set ", got.sets)
	t.removeCounters = unwanted(names, "counter ", got.counters)
	return t
}

// remake builds the table from nothing; existing says that there is one to
// delete in the same batch.
func remake(want *expected, existing bool) transaction {
	t := transaction{
		remake: existing, create: true, flags: want.flags,
		addCounters: want.counters, addSets: want.sets, addChains: want.chains, rewrite: want.chains,
	}
	for _, s := range want.sets {
		t.addElements = appendChange(t.addElements, s, s.elements)
	}
	return t
}

// mustRemake says whether something is wrong that cannot be changed in place.
func mustRemake(want *expected, got snapshot) bool {
	if got.flags != want.flags || int(got.uses) != len(got.chains)+len(got.sets)+len(got.counters) {
		return true
	}
	for _, c := range want.chains {
		have, ok := got.chains[c.name]
		if !ok {
			continue
		}
		if have.base != (c.hook != nil) {
			return true
		}
		if c.hook != nil && (have.hook != *c.hook || have.priority != c.priority() || have.kind != string(c.family())) {
			return true
		}
	}
	for _, s := range want.sets {
		if have, ok := got.sets[s.name]; ok && (have.shape != want.shapes[s.name] || have.foreign > 0) {
			return true
		}
	}
	return false
}

// appendChange leaves out a change of nothing. Elements are sorted, so that equal
// changes make equal batches.
func appendChange(changes []elementChange, s set, elements []element) []elementChange {
	if len(elements) == 0 {
		return changes
	}
	elements = slices.Clone(elements)
	slices.SortFunc(elements, func(a, b element) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.end, b.end)) })
	return append(changes, elementChange{s, elements})
}

// unwanted lists, sorted, what the kernel has under a kind and names do not.
func unwanted[T any](names map[string]bool, kind string, have map[string]T) []string {
	var found []string
	for name := range have {
		if !names[kind+name] {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// commit sends the transaction as one batch.
func (t transaction) commit(nl *netlink.Conn, table string) error {
	batch, err := t.messages(table)
	if err != nil {
		return err
	}
	return send(nl, batch)
}

// queue gives the library the transaction's messages in their order.
func (t transaction) queue(conn *nftables.Conn, table string) error {
	tab := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	if t.remake {
		conn.DelTable(tab)
	}
	if t.create {
		conn.AddTable(tab)
	}
	for _, name := range t.addCounters {
		conn.AddObj(counter(tab, name))
	}
	for _, s := range t.addSets {
		if err := conn.AddSet(s.definition(tab), nil); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	// Removed before added: a box that grows would overlap its old self.
	for _, c := range t.removeElements {
		if err := c.each(tab, conn.SetDeleteElements); err != nil {
			return err
		}
	}
	for _, c := range t.addElements {
		if err := c.each(tab, conn.SetAddElements); err != nil {
			return err
		}
	}
	for _, c := range t.addChains {
		conn.AddChain(c.definition(tab))
	}
	for _, name := range t.removeChains {
		conn.FlushChain(&nftables.Chain{Table: tab, Name: name})
	}
	for _, c := range t.rewrite {
		chain := c.definition(tab)
		conn.FlushChain(chain)
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: tab, Chain: chain, Exprs: r.body, UserData: comment(r.comment)})
		}
	}
	for _, name := range t.removeChains {
		conn.DelChain(&nftables.Chain{Table: tab, Name: name})
	}
	for _, name := range t.removeSets {
		conn.DelSet(&nftables.Set{Table: tab, Name: name})
	}
	for _, name := range t.removeCounters {
		conn.DeleteObject(counter(tab, name))
	}
	if t.vanish {
		conn.DelTable(tab)
	}
	return nil
}

// counter is a named counter: unlike one inside a rule it survives the rule's
// replacement.
func counter(tab *nftables.Table, name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: tab, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

// comment is a rule's comment as nft(8) stores it.
func comment(text string) []byte {
	if text == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.Type(userdata.TypeComment), text)
}

// definition is the chain for the library. A filter chain's policy is accept:
// what is not tagged is not ours.
func (c chain) definition(tab *nftables.Table) *nftables.Chain {
	d := &nftables.Chain{Name: c.name, Table: tab}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		d.Hooknum, d.Priority, d.Type, d.Policy = c.hook, nftables.ChainPriorityRef(c.priority()), c.family(), &policy
	}
	return d
}

// definition is the set for the library, without elements.
func (s set) definition(tab *nftables.Table) *nftables.Set {
	order := binaryutil.BigEndian
	if s.key.Name == nftables.TypeCGroupV2.Name {
		order = binaryutil.NativeEndian // only tells nft(8) how to print
	}
	return &nftables.Set{
		KeyByteOrder: order,
		Table:        tab, Name: s.name, ID: s.id, Comment: s.comment, KeyType: s.key,
		Interval: s.interval, Concatenation: s.interval,
		Counter: s.counting, Size: uint32(s.capacity),
	}
}

// maxMessage bounds the elements of one message, in bytes: the list is an
// attribute and its length a 16-bit number.
const maxMessage = 48 << 10

// each hands the elements to send in pieces that fit a message.
func (c elementChange) each(tab *nftables.Table, send func(*nftables.Set, []nftables.SetElement) error) error {
	definition := c.set.definition(tab)
	const attributeHeaders = 24 // of list item, key, key end, and their values
	size := attributeHeaders + 2*int(c.set.key.Bytes)
	for piece := range slices.Chunk(c.elements, maxMessage/size) {
		list := make([]nftables.SetElement, 0, len(piece))
		for _, e := range piece {
			list = append(list, nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end)})
		}
		if err := send(definition, list); err != nil {
			return fmt.Errorf("set %s: %w", c.set.name, err)
		}
	}
	return nil
}

// Buffers of the socket for a batch: the kernel takes a batch only whole
// (EMSGSIZE), and answers each message of it.
const batchBuffer = 32 << 20

// applied reports whether a batch may have been applied although sending it
// failed: the answers did not fit into the socket's buffer, or were late.
func applied(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, os.ErrDeadlineExceeded)
}
