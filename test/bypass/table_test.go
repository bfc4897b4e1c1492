package bypass

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/test/outside"
)

// atOnce gives how many attackers run at a time: most of their time is waiting.
func atOnce() int { return max(1, 64/slower()) }

// turns is the order of the locks in which users take turns.
var turns = []locks{both, guard, none, bpf, redirects, nft}

// TestBypass is the bypass table: every way out, whoever tries it, under both
// locks and under each alone: refused or proxied, never direct. Without locks
// each of them does lead out: that is what makes it an attack.
func TestBypass(t *testing.T) {
	w := newWorld(t)
	rows := chosen(t)
	r := newReport(t)
	for name := range strings.SplitSeq(*onlyLocks, ",") {
		l := locks(name)
		t.Run(string(l), func(t *testing.T) {
			again := w.h.only(l, w.d)
			w.sweep(t, r, l, rows)
			again()
			if l == none || l == redirects {
				// What was let out may still say goodbye.
				within(patient(5*time.Second), func() bool { return len(w.wire.packets()) == 0 })
			}
		})
	}
	for l, outcomes := range r.outcomes {
		t.Logf("%s: %v", l, outcomes)
	}
}

// TestRedirectMode is the same table in nft redirect mode.
func TestRedirectMode(t *testing.T) {
	w := newWorld(t, "--locks", "nft")
	r := newReport(t)
	w.sweep(t, r, nft, chosen(t))
	t.Logf("%s: %v", nft, r.outcomes[nft])
}

// chosen gives the rows that -rows names.
func chosen(t *testing.T) []row {
	t.Helper()
	only, err := regexp.Compile(*onlyRows)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(table(), func(r row) bool { return !only.MatchString(r.subject + ": " + r.name) })
}

// sweep makes every row of the table under the locks that are in force.
func (w *world) sweep(t *testing.T, r *report, l locks, rows []row) {
	t.Helper()
	type done struct {
		x       *trial
		said    []string
		reached int
	}
	w.wire.packets()
	firstPort := w.port
	var all []*done
	var wait sync.WaitGroup
	places := make(chan struct{}, atOnce())
	for i := range rows {
		row := &rows[i]
		if row.states != nil && !slices.Contains(row.states, l) {
			continue
		}
		users := row.users
		if users == nil {
			users = everybody()
		}
		if row.stated != "" && (row.statedUnder == nil || slices.Contains(row.statedUnder, l)) {
			r.add(line{Row: row.name, Subject: row.subject, Locks: l, Outcome: stated, Reason: row.stated})
			continue
		}
		if l == none && row.control != nil {
			controlled := *row
			controlled.statements, row = row.control, &controlled
			users = asRoot
		}
		if *inTurns {
			turn := (i + slices.Index(turns, l)) % len(users)
			users = users[turn : turn+1]
		}
		for _, who := range users {
			d := &done{x: &trial{row: row, w: w, locks: l, who: who, port: w.nextPort()}}
			all = append(all, d)
			places <- struct{}{}
			wait.Go(func() {
				defer func() { <-places }()
				d.reached, d.said = d.x.try()
			})
		}
	}
	wait.Wait()
	seen := w.look(l)
	claimed := make([]bool, len(seen))
	var late []int // source ports of attacks that are made again
	tallies := make([]tally, len(all))
	for i, d := range all {
		tallies[i] = d.x.judge(d.reached, d.said, seen, claimed)
		if d.x.timed && tallies[i].reached > 0 {
			late = append(late, d.x.port)
		}
	}
	for i, d := range all {
		x, got := d.x, tallies[i]
		out := line{Row: x.name, Subject: x.subject, Locks: l, UID: x.who.uid, NNP: x.who.nnp}
		if got.reached > 0 && x.timed && l != none && l != redirects {
			got = out.again(t, got, func() tally {
				one := *x
				one.port = w.nextPort()
				late = append(late, one.port)
				reached, said := one.try()
				seen := w.look(l)
				claimed := make([]bool, len(seen))
				got := one.judge(reached, said, seen, claimed)
				w.strays(t, l, seen, claimed, func(source int) bool { return source <= firstPort || slices.Contains(late, source) })
				return got
			})
		}
		reached, said, lines, at := got.reached, got.said, got.wire, got.origin
		out.OriginCount, out.WireCount, out.Outcome = at, len(lines), refused
		reason := unsupported(said)
		if x.uncontrolled != "" {
			reason = x.uncontrolled
		}
		whose := fmt.Sprintf("%s: %s (%s)", x.subject, x.name, x.who)
		open := l == none || l == redirects && x.sneaks
		if open && reached == 0 && reason == "" {
			// A relay may be slow to tell.
			within(patient(5*time.Second), func() bool { at = w.h.net.count(x.wanted()); return at > 0 })
			reached += at
		}
		switch {
		case reached > 0 && (l == none || l == redirects):
			out.Outcome = reachedIt
		case reached > 0:
			out.Outcome = direct
			t.Errorf("%s: left the host: %d arrived, on the wire %q; the program saw %q", whose, at, lines, said)
		case open && reason != "":
			out.Outcome, out.Reason = impossible, reason
		case open:
			out.Outcome, out.Reason = notAnAttack, strings.Join(said, "; ")
			t.Errorf("%s: is no attack: nothing left the host; the program saw %q", whose, said)
		case l != guard && accepted(said):
			out.Outcome = proxied
		}
		r.add(out)
	}
	w.strays(t, l, seen, claimed, func(source int) bool { return source <= firstPort })
}

// look gives what the wire has seen since the last look, when those who receive have
// noted what has come.
func (w *world) look(l locks) []outside.Packet {
	w.t.Helper()
	seen := w.wire.packets()
	w.h.net.quiet()
	if l == bpf && !egressSeesSYNACKs() {
		seen = slices.DeleteFunc(seen, outside.Packet.SYNACK)
	}
	time.Sleep(patient(50 * time.Millisecond)) // for those who receive, and tell, to have noted it
	return seen
}

// strays fails the test for packets that nobody has claimed. old tells the source ports
// of earlier attacks: where something may leave, their sockets repeat themselves.
func (w *world) strays(t *testing.T, l locks, seen []outside.Packet, claimed []bool, old func(source int) bool) {
	t.Helper()
	for k, p := range seen {
		// The worker asks the resolver, and fetches what is allowed.
		if claimed[k] || l == none || l == redirects || p.Source != 0 && old(p.Source) || ours(p) {
			continue
		}
		t.Errorf("left the host, by whomever: %q", p.Text)
	}
}

// try makes the attack.
func (x *trial) try() (reached int, said []string) {
	if x.scenario != nil {
		return x.scenario(x)
	}
	return 0, x.w.h.lines(x.w.h.inside("attacker", x.who, x.fill(x.first), x.fill(x.statements)...))
}

// succeeded: connect fails with ECONNRESET where the far end has accepted and ended
// the connection before the program came to look.
func succeeded(result string) bool {
	return strings.HasPrefix(result, "ok") || result == "ECONNRESET"
}

// ours says of a packet that it may be the worker's.
func ours(p outside.Packet) bool {
	for _, dst := range []string{dnsV4 + ":53", originV4 + ":80", originV4 + ":443", "[" + originV6 + "]:80", "[" + originV6 + "]:443", originV4 + ":7443"} {
		if p.Source >= 32768 && strings.HasSuffix(p.Text, "> "+dst) {
			return true
		}
	}
	return false
}

// accepted: the last thing that the program tried to send was taken, and nothing
// of it went past sallyport.
func accepted(said []string) (ok bool) {
	for _, line := range said {
		switch what, result, _ := strings.Cut(line, " "); what {
		case "connect", "fastopen", "uring", "uringsend", "uringfastopen", "send", "sendto", "sendmany", "sendhex", "sendhexto", "zerocopy", "splice", "sendfile", "talk":
			ok = strings.HasPrefix(result, "ok")
		}
	}
	return ok
}
