package guard

import (
	"fmt"
	"maps"
	"strings"
)

// Counters are packets refused since the table was made. They never go down, also
// when somebody flushed the table; what was counted between the last reading and the
// flush is lost.
type Counters struct {
	// TCP, UDP and Other are packets of tagged sockets that were rejected.
	TCP, UDP, Other uint64
	// Inbound are connection attempts from elsewhere to tagged listeners that
	// no Inbound permits. They were dropped.
	Inbound uint64
	// Rerouted are packets addressed to our listeners that something sent to
	// another interface than lo. They were dropped.
	Rerouted uint64
	// ForeignListener are redirected packets that somebody else's socket would
	// have got, which has a port of ours. They were rejected.
	ForeignListener uint64
	// Cgroups has the rejected packets of each tagged cgroup by its id.
	Cgroups map[uint64]uint64
	// InboundCgroups has the dropped connection attempts to the listeners of each.
	InboundCgroups map[uint64]uint64
}

// Rejected is the sum over all reasons.
func (c Counters) Rejected() uint64 {
	return c.TCP + c.UDP + c.Other + c.Inbound + c.Rerouted + c.ForeignListener
}

// Counters reads the counters.
func (g *Guard) Counters() (Counters, error) {
	c, err := g.counters()
	if g.twin == nil || err != nil {
		return c, err
	}
	t, err := g.twin.counters()
	if err != nil {
		return Counters{}, err
	}
	return c.withTwin(t), nil
}

func (g *Guard) counters() (Counters, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.with(func(c *connection) error {
		got, err := c.counters(g.table)
		if err == nil {
			g.totals.observe(got)
		}
		return err
	})
	if err != nil {
		return Counters{}, fmt.Errorf("guard: counters: %w", err)
	}
	reason := func(name string) uint64 { return g.totals.reasons[name].sum() }
	c := Counters{
		TCP: reason(countTCP), UDP: reason(countUDP), Other: reason(countOther),
		Inbound: reason(countInbound), Rerouted: reason(countRerouted), ForeignListener: reason(countForeign),
		Cgroups: sums(g.totals.cgroups), InboundCgroups: sums(g.totals.inbound),
	}
	return c, nil
}

func sums(totals map[uint64]total) map[uint64]uint64 {
	out := make(map[uint64]uint64, len(totals))
	for id, t := range totals {
		out[id] = t.sum()
	}
	return out
}

// A total adds a kernel counter up over the lives of that counter.
type total struct {
	before uint64 // of former counters of that name
	now    uint64
}

func (t total) sum() uint64 { return t.before + t.now }

// observe takes a reading. A lower one than before is that of a new counter.
func (t total) observe(packets uint64) total {
	if packets < t.now {
		t = t.restart()
	}
	t.now = packets
	return t
}

// restart says that the counter will begin at zero.
func (t total) restart() total { return total{before: t.sum()} }

// totals are those of all reasons and of the cgroups that are tagged now; both
// are as bounded as the table.
type totals struct {
	reasons map[string]total
	// cgroups count what was rejected, inbound what was dropped.
	cgroups, inbound map[uint64]total
}

func newTotals() totals {
	t := totals{map[string]total{}, map[uint64]total{}, map[uint64]total{}}
	for _, reason := range reasons() {
		t.reasons[reason] = total{}
	}
	return t
}

// tag forgets the cgroups that are not tagged and takes those in that are.
func (t *totals) tag(levels map[uint64]int) {
	for _, of := range []map[uint64]total{t.cgroups, t.inbound} {
		maps.DeleteFunc(of, func(id uint64, _ total) bool {
			_, stays := levels[id]
			return !stays
		})
		for id := range levels {
			if _, known := of[id]; !known {
				of[id] = total{}
			}
		}
	}
}

// observe takes the readings of a snapshot. What is not in it begins anew.
func (t *totals) observe(s snapshot) {
	for reason, sum := range t.reasons {
		t.reasons[reason] = sum.observe(s.counters[reason])
	}
	observeSets(t.cgroups, s, refusedName)
	observeSets(t.inbound, s, droppedName)
}

// observeSets takes the elements' counters of the sets of all levels.
func observeSets(of map[uint64]total, s snapshot, prefix string) {
	packets := map[string]uint64{}
	for name, set := range s.sets {
		if strings.HasPrefix(name, prefix) {
			for e, n := range set.elements {
				packets[e.key] += n
			}
		}
	}
	for id, sum := range of {
		of[id] = sum.observe(packets[tagged(id).key])
	}
}

// restart says that every counter will begin at zero.
func (t *totals) restart() {
	for reason, sum := range t.reasons {
		t.reasons[reason] = sum.restart()
	}
	for _, of := range []map[uint64]total{t.cgroups, t.inbound} {
		for id, sum := range of {
			of[id] = sum.restart()
		}
	}
}
