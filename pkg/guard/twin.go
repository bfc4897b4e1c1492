package guard

import "errors"

// twinSuffix is behind the name of the table that is ours alone.
const twinSuffix = "_held"

// Hold keeps the table twice from the next Apply on. The twin is the same table,
// owned by a socket of this process (NFT_TABLE_F_OWNER, Linux 5.12): `flush
// ruleset` passes it over, nobody else can change or delete it, and the kernel
// deletes it when the socket closes. The other table stays when the process ends.
// So what the two do holds while the process lives, whatever others do to the
// ruleset, and as long as nobody touches it when the process is dead.
func (g *Guard) Hold() error {
	if g.twin != nil {
		return nil
	}
	t, err := New(Options{Table: g.table + twinSuffix, Netns: g.netns})
	if err != nil {
		return err
	}
	t.owned = true
	g.twin = t
	return nil
}

// commitOwned sends a batch on the socket that owns the table. After a failure
// nobody knows what waits in it; closing it takes the table away, and the next
// try makes another one.
func (g *Guard) commitOwned(t transaction) error {
	if g.owner == nil {
		nl, err := dialWriter(g.netns)
		if err != nil {
			return err
		}
		g.owner = nl
	}
	err := t.commit(g.owner, g.table)
	if err != nil {
		err = errors.Join(err, g.disown())
	}
	return err
}

// disown closes the socket that owns the table, and so deletes it.
func (g *Guard) disown() error {
	if g.owner == nil {
		return nil
	}
	nl := g.owner
	g.owner = nil
	return nl.Close()
}

// withTwin joins what the other table counted: a packet meets the one or the
// other first, and is refused once.
func (c Counters) withTwin(t Counters) Counters {
	c.TCP += t.TCP
	c.UDP += t.UDP
	c.Other += t.Other
	c.Inbound += t.Inbound
	c.Rerouted += t.Rerouted
	c.ForeignListener += t.ForeignListener
	for id, n := range t.Cgroups {
		c.Cgroups[id] += n
	}
	for id, n := range t.InboundCgroups {
		c.InboundCgroups[id] += n
	}
	return c
}
