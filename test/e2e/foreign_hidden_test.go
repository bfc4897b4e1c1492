package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/foreign"
)

const (
	// doubtLife is how long a process may live that has what cannot be looked at:
	// two seconds of doubt, and the looks around them.
	doubtLife = 4 * time.Second
	// swapMost is what may leave by a socket that is in a queue but for an instant
	// every 20 ms, until a look finds it there: one second of it.
	swapMost = 50 * 1400
)

// TestForeignInFlight: a socket that was connected outside is found also where it
// is in no table: on its way over a unix socket of the workload's own. What cannot
// be looked at there ends with the connection that it came by, or with the process
// that keeps it from being looked at.
func TestForeignInFlight(t *testing.T) {
	h := newHost(t)
	h.putKeep()
	place := h.meet(7777)
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	h.below("receiver")
	for _, where := range []string{"stream", "dgram", "seqpacket", "behind", "empty", "nested"} {
		t.Run(where, func(t *testing.T) {
			best(t, "its end", foreignLife, func() time.Duration {
				k := h.keep(0, "park-"+where, originV4, 7777, "receiver")
				joined := time.Now()
				one := place.take(t)
				took := one.lived(t, joined)
				if said := k.late(); !strings.HasPrefix(said, "error ") {
					t.Errorf("the program's send: %q", said)
				}
				if got := one.heard.String(); got != "before" {
					t.Errorf("the origin received %q, want only what was sent outside", got)
				}
				e := h.foreignEvent(k)
				if !strings.HasPrefix(e.Message, "tcp connection") || !strings.HasSuffix(e.Message, ": destroyed") || e.Dst.Port != 7777 || e.Workload.Exe != keepPath {
					t.Errorf("audit: %+v", e)
				}
				return took
			})
		})
	}
	doubtEnd := map[string]string{"listener": "the connection that they came by was ended", "offset": "its process was ended"}
	for _, where := range []string{"listener", "offset"} {
		t.Run(where, func(t *testing.T) {
			best(t, "its end", doubtLife, func() time.Duration {
				k := h.keep(0, "park-"+where, originV4, 7777, "receiver")
				joined := time.Now()
				one := place.take(t)
				took := one.lived(t, joined)
				if said := k.late(); said == "sent" {
					t.Errorf("the program's send: %q", said)
				}
				if got := one.heard.String(); got != "before" {
					t.Errorf("the origin received %q, want only what was sent outside", got)
				}
				if e := h.foreignEvent(k); !strings.HasSuffix(e.Message, doubtEnd[where]) && !strings.HasSuffix(e.Message, ": destroyed") {
					t.Errorf("audit: %+v", e)
				}
				return took
			})
		})
	}
	t.Run("swapping", func(t *testing.T) {
		best(t, "its end", foreignLife, func() time.Duration {
			k := h.keep(0, "park-swapping", originV4, 7777, "receiver")
			joined := time.Now()
			one := place.take(t)
			took := one.lived(t, joined)
			if said := k.line(); !strings.HasPrefix(said, "swapped ") || !strings.HasSuffix(said, " error") {
				t.Errorf("the program: %q", said)
			}
			if n := len(one.heard.String()); took <= foreignLife && n > swapMost {
				t.Errorf("the origin received %d bytes within %s", n, took)
			}
			return took
		})
	})
	if n := h.scrape(`sallyport_foreign_sockets_total{outcome="failed"}`); n != 0 {
		t.Errorf("%v could not be ended", n)
	}
}

// TestForeignAmongMany: neither a table that many processes share, which would be
// 400,000 descriptors if it were read for each, nor more than are looked through
// hide a socket, and no workload is seen later because of another's.
func TestForeignAmongMany(t *testing.T) {
	h := newHost(t)
	h.putKeep()
	place := h.meet(7777)
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	for _, cg := range []string{"crowded", "full", "receiver"} {
		h.below(cg)
	}
	t.Run("shared table", func(t *testing.T) {
		best(t, "its end", foreignLife, func() time.Duration {
			k := h.keep(0, "shared", originV4, 7777, "crowded")
			joined := time.Now()
			took := place.take(t).lived(t, joined)
			if e := h.foreignEvent(k); !strings.HasSuffix(e.Message, ": destroyed") {
				t.Errorf("audit: %+v", e)
			}
			return took
		})
	})
	t.Run("beside crowded ones", func(t *testing.T) {
		for range 4 {
			k := h.keep(0, "shared", originV4, 7777, "crowded")
			place.take(t)
			defer k.In.Close()
		}
		best(t, "its end", foreignLife, func() time.Duration {
			k := h.keep(0, "plain", originV4, 7777, "receiver")
			joined := time.Now()
			took := place.take(t).lived(t, joined)
			h.foreignEvent(k)
			return took
		})
	})
	t.Run("beyond the bound", func(t *testing.T) {
		k := h.keep(0, "many", originV4, 7777, "full")
		place.take(t).lived(t, time.Now())
		ended := func(e audit.Event) bool {
			return strings.HasSuffix(e.Workload.Cgroup, "/full") &&
				strings.Contains(e.Message, fmt.Sprint(foreign.MaxWork)) && strings.HasSuffix(e.Message, "its process was ended")
		}
		// A look through so many takes as long as the machine is busy.
		eventually(t, time.Minute, "the end of a process", func() bool { return slices.ContainsFunc(h.auditOf(audit.ForeignSocket), ended) })
		h.waitAudit("the problem", func(e *audit.Event) bool {
			return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "/full has more than") && strings.HasPrefix(e.Message, "noticed: ")
		})
		if said := k.late(); said == "sent" {
			t.Errorf("the program's send: %q", said)
		}
	})
}

// TestQueuesStay: what a workload passes to itself arrives as it was sent, however
// long it waits, also to who peeks with an offset of its own.
func TestQueuesStay(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putKeep()
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	h.below("own")
	k := h.keep(0, "queues", "127.0.0.1", 1, "own")
	time.Sleep(doubtLife)
	if said := k.late(); said != "as sent" {
		t.Errorf("its queues: %q", said)
	}
	if all := h.auditOf(audit.ForeignSocket); len(all) > 0 {
		t.Errorf("audit: %+v", all)
	}
}
