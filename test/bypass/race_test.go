package bypass

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// racers are how many programs share the connections of a race.
const racers = 4

// TestRace: connections race the end of worker and keeper, by SIGKILL, over and
// over. None reaches the origin: the policy allows none of them.
func TestRace(t *testing.T) {
	w := &world{t: t, h: newHost(t)}
	r := newReport(t)
	conf := w.h.config(policy)
	d := w.h.startDaemon(conf)
	storm := func(n int, who identity) []*running {
		var all []*running
		for range racers {
			all = append(all, w.h.start(w.h.inside("storm", who, nil, "pause", fmt.Sprintf("storm %d %s %s 3128", n/racers, originV4, originV6))))
		}
		for _, p := range all {
			p.tell()
		}
		return all
	}
	finish := func(all []*running) (connected, refused int) {
		for _, p := range all {
			p.read("storm")
			var c, f int
			fmt.Sscanf(strings.TrimPrefix(p.result("storm"), "ok "), "%d %d", &c, &f)
			connected, refused = connected+c, refused+f
			p.end()
		}
		return
	}
	arrived := func() int { return w.h.net.count(marked("storm")) }
	// The control: they arrive where no lock is.
	again := w.h.only(none, d)
	if connected, _ := finish(storm(200, identities[0])); !within(patient(5*time.Second), func() bool { return arrived() == 200 }) {
		t.Errorf("the race is none: %d connected, %d of 200 arrived", connected, arrived())
	}
	again()
	for _, l := range []locks{both, guard, bpf} {
		t.Run(string(l), func(t *testing.T) {
			total := *connections
			if l != both {
				total /= 4
			}
			kills, made, captured, turnedAway := 0, 0, 0, 0
			for _, who := range everybody() {
				// Each end is met by some hundred connections, at another moment.
				ends := max(1, total/len(everybody())/500)
				share := (total/len(everybody())/ends/racers + 1) * racers
				before := w.h.net.count(func(*arrival) bool { return true })
				connected, refusals := 0, 0
				for range ends {
					worker := d.worker()
					if l != both {
						stop(d.pid)
						if l == guard {
							w.h.detach("*")
						} else {
							w.h.flush()
						}
					}
					all := storm(share, who)
					time.Sleep(time.Duration(kills*7%20) * time.Millisecond)
					d = end(w, d, worker, kills, conf, func() {
						c, f := finish(all)
						connected, refusals = connected+c, refusals+f
					})
					kills++
					made += share
				}
				w.h.net.quiet()
				leaked := w.h.net.count(func(*arrival) bool { return true }) - before
				out := line{Row: "connections while worker and keeper are killed", Subject: "20,000 connections racing a kill -9 of worker and keeper", Locks: l, UID: who.uid, NNP: who.nnp,
					OriginCount: leaked, Outcome: refused, Reason: fmt.Sprintf("%d connections, %d captured, %d refused, %d ends", share*ends, connected, refusals, ends)}
				if leaked > 0 {
					out.Outcome = direct
					t.Errorf("%s: %d of %d connections reached the origin", who, leaked, share*ends)
				}
				if connected+refusals < share*ends {
					t.Errorf("%s: %d captured, %d refused, want %d in all", who, connected, refusals, share*ends)
				}
				captured, turnedAway = captured+connected, turnedAway+refusals
				t.Logf("%s: %s", who, out.Reason)
				r.add(out)
			}
			// One storm may be over before its end comes; not all of them.
			if l == both && kills > 9 && (captured == 0 || turnedAway == 0) {
				t.Errorf("%d captured, %d refused: no race", captured, turnedAway)
			}
			if made < total {
				t.Errorf("%d connections were made, want %d", made, total)
			}
		})
	}
}

// end kills worker and keeper, in one of three ways, waits for the storm and gives
// the daemon that is there then.
func end(w *world, d *daemon, worker, way int, conf string, wait func()) *daemon {
	w.t.Helper()
	switch way % 3 {
	case 0:
		unix.Kill(worker, unix.SIGKILL)
		time.Sleep(time.Duration(way%5) * 10 * time.Millisecond)
		unix.Kill(d.pid, unix.SIGKILL)
	case 1:
		unix.Kill(d.pid, unix.SIGKILL)
		unix.Kill(worker, unix.SIGKILL)
	case 2: // the keeper gets itself another worker
		unix.Kill(worker, unix.SIGKILL)
		wait()
		unix.Kill(d.pid, unix.SIGCONT)
		w.h.waitLocks(d)
		return d
	}
	wait()
	<-d.ended
	return w.h.startDaemon(conf)
}
