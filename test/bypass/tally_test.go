package bypass

import (
	"fmt"
	"strings"
	"testing"

	"sallyport/test/outside"
)

// A tally is what came of one try of an attack.
type tally struct {
	said []string // by the program
	// origin counts what arrived, wire is what left, and reached is above 0 if any of
	// that is so, or what must not succeed did.
	origin  int
	wire    []string
	reached int
}

// judge tells what came of the attack, which by itself has reached something so many
// times, and claims its packets among those seen.
func (x *trial) judge(reached int, said []string, seen []outside.Packet, claimed []bool) tally {
	got := tally{said: said, origin: reached + x.w.h.net.count(x.wanted())}
	trace := ""
	if x.trace != "" {
		trace = x.fill([]string{x.trace})[0]
	}
	for k, p := range seen {
		if p.Source == x.port || trace != "" && strings.Contains(p.Text, trace) {
			claimed[k] = true
			if !x.older {
				got.wire = append(got.wire, p.Text)
			}
		}
	}
	got.reached = got.origin + len(got.wire)
	if x.must != "" && succeeded(resultOf(said, x.must)) {
		got.reached++
	}
	return got
}

// wanted tells the attack's arrivals.
func (x *trial) wanted() func(*arrival) bool {
	if x.marker != "" {
		return marked(x.fill([]string{x.marker})[0])
	}
	return fromPort(x.port)
}

// again makes an attack twice more, with nothing beside it, on what is promised within
// a second: beside all the others a busy machine may have been late. Neither may reach
// anything: what holds only sometimes does not hold. The line tells of every try.
func (l *line) again(t *testing.T, first tally, once func() tally) (sum tally) {
	t.Helper()
	l.Reason = fmt.Sprintf("at first, beside all the others: %d arrived, %d on the wire", first.origin, len(first.wire))
	t.Logf("%s (%d), again: %s; the program saw %q", l.Row, l.UID, l.Reason, first.said)
	l.Tries = 1
	for range 2 {
		got := once()
		l.Tries++
		sum.said = append(sum.said, got.said...)
		sum.origin += got.origin
		sum.wire = append(sum.wire, got.wire...)
		sum.reached += got.reached
	}
	return sum
}
