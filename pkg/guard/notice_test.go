package guard

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// foreignEdits are what somebody else could do to our table, each with a word of
// the problem that must be reported.
func foreignEdits() []struct{ name, script, problem string } {
	return []struct{ name, script, problem string }{
		{"ruleset flushed", "flush ruleset", "table: missing"},
		{"table deleted", "delete table inet guard_test", "table: missing"},
		{"chain flushed", "flush chain inet guard_test output", "0 rules, want 1"},
		{"rule inserted", "insert rule inet guard_test tagged_3 accept", "rules, want"},
		{"rule of an unknown kind inserted", "insert rule inet guard_test output numgen random mod 2 0 accept", "2 rules, want 1"},
		{"rule in place of another", "flush chain inet guard_test output\nadd rule inet guard_test output accept", "is another one"},
		{"element deleted", "delete element inet guard_test local4 { tcp . 127.0.0.1 . 15001 }", "1 of 1 elements missing"},
		{"element added", "add element inet guard_test direct4 { tcp . 0.0.0.0/0 . 0-65535 }", "1 elements that do not belong"},
		{"set flushed", "flush set inet guard_test tagged_3", "1 of 1 elements missing"},
		{"policy changed", "add chain inet guard_test output { policy drop\n; }", "policy drop"},
		{"table asleep", "add table inet guard_test { flags dormant\n; }", "flags 0x1"},
		{"chain added", "add chain inet guard_test more { type filter hook output priority 0\n; }", "chain more: does not belong"},
		{"chains added that need each other", "add chain inet guard_test one\nadd chain inet guard_test two\nadd rule inet guard_test one jump two\nadd rule inet guard_test output jump one", "chain one: does not belong"},
		{"set added", "add set inet guard_test more { type ipv4_addr\n; }", "set more: does not belong"},
		{"counter added", "add counter inet guard_test more", "counter more: does not belong"},
		{"quota added", "add quota inet guard_test more { 5 mbytes }", "1 objects that are no chain"},
		{"made anew at another place", "delete table inet guard_test\nadd table inet guard_test\nadd chain inet guard_test output { type filter hook output priority 0\n; }", "priority 0"},
		{"set made anew with a timeout", "flush chain inet guard_test refuse\nadd set inet guard_test tagged_4 { type cgroupsv2\n; timeout 1s\n; }", "set tagged_4: does not belong"},
	}
}

func TestForeignEdits(t *testing.T) {
	w := newWorld(t)
	dir, id := newCgroup(t, "a")
	start(t, w.outside, "").must("listen tcp :7")
	tagged := start(t, w.host, dir)
	g := newGuard(t, w.host)
	state := State{Tagged: []Cgroup{{id, level("a")}}, Listeners: addrPorts("127.0.0.1:15001")}
	apply(t, g, state)
	ctx, cancel := context.WithCancel(t.Context())
	notices := make(chan time.Time, 100)
	done := make(chan error, 1)
	go func() { done <- g.Watch(ctx, func() { notices <- time.Now() }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("watch:", err)
		}
	}()
	ready := func() {
		// A change of ours that Apply has seen gives no notice; one of somebody
		// else to another table neither.
		deadline := time.After(time.Minute)
		for {
			nft(t, w.host, "add rule inet guard_test input counter")
			select {
			case <-notices:
				return
			case <-deadline:
				t.Fatal("watch does not begin")
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	// quiet waits for what is under way.
	quiet := func() {
		for {
			select {
			case <-notices:
			case <-time.After(300 * time.Millisecond):
				return
			}
		}
	}
	ready()
	// once makes an edit and gives how long after it the notice came.
	once := func(t *testing.T, script, problem string) time.Duration {
		apply(t, g, state)
		if problems, err := g.Check(); err != nil || len(problems) > 0 {
			t.Fatal("before the edit:", problems, err)
		}
		for len(notices) > 0 {
			<-notices
		}
		nft(t, w.host, script)
		edited := time.Now()
		var noticed time.Time
		select {
		case noticed = <-notices:
		case <-time.After(time.Minute):
			t.Fatal("not noticed")
		}
		problems, err := g.Check()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(fmt.Sprint(problems), problem) {
			t.Errorf("problems %q, want one with %q", problems, problem)
		}
		if err := g.Apply(state); err != nil {
			t.Fatal("repair:", err)
		}
		if problems, err := g.Check(); err != nil || len(problems) > 0 {
			t.Error("after the repair:", problems, err)
		}
		tagged.mustNot("exchange tcp4 203.0.113.2:7")
		// nft(8) itself takes a while after its transaction.
		return noticed.Sub(edited)
	}
	for _, edit := range foreignEdits() {
		t.Run(edit.name, func(t *testing.T) {
			// On a busy machine one notice may come at any time.
			const limit = 250 * time.Millisecond
			soonest := once(t, edit.script, edit.problem)
			for try := 1; try < 5 && soonest > limit; try++ {
				quiet()
				soonest = min(soonest, once(t, edit.script, edit.problem))
			}
			if soonest > limit {
				t.Errorf("noticed %v after the edit at the soonest", soonest)
			}
		})
	}
	t.Run("others' tables and our own changes are no news", func(t *testing.T) {
		apply(t, g, state)
		quiet()
		nft(t, w.host, "add table inet another\ndelete table inet another\nadd table ip guard_test\ndelete table ip guard_test")
		apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}})
		// Notices come in order: one about an edit comes after all of these.
		nft(t, w.host, "flush chain inet guard_test input")
		<-notices
		select {
		case <-notices:
			t.Error("more notices than one")
		case <-time.After(100 * time.Millisecond):
		}
		if problems, err := g.Check(); err != nil || len(problems) != 1 {
			t.Error(problems, err)
		}
	})
}

// TestNoGap repairs and changes the table without pause while a tagged process
// sends. Nothing comes out in between.
func TestNoGap(t *testing.T) {
	w := newWorld(t)
	dir, id := newCgroup(t, "a")
	_, otherID := newCgroup(t, "a/b")
	g := newGuard(t, w.host)
	base := Cgroup{id, level("a")}
	deep := Cgroup{otherID, level("a/b")}
	apply(t, g, State{Tagged: []Cgroup{base}})
	tap := newTap(t, w.outside)
	tagged := start(t, w.host, dir)
	tagged.must("hammer 203.0.113.2:7")
	direct := []Direct{{Prefix: here6Prefix(), First: 1, Last: 2, Protocol: UDP}}
	rounds := 0
	for end := time.Now().Add(1500 * time.Millisecond); rounds < 10 || time.Now().Before(end); rounds++ {
		for _, s := range []State{
			{Tagged: []Cgroup{base, deep}},
			{Tagged: []Cgroup{base}, Direct: direct},
			{Tagged: []Cgroup{base, deep}, Listeners: addrPorts("127.0.0.1:1")},
			{Tagged: []Cgroup{base}},
		} {
			apply(t, g, s)
		}
		// A foreign rule that does not open anything is repaired without a gap.
		nft(t, w.host, "add rule inet guard_test output counter\nadd rule inet guard_test refuse counter")
	}
	sent := tagged.must("hammered")
	var through, refused int
	if _, err := fmt.Sscanf(sent, "%d %d", &through, &refused); err != nil {
		t.Fatal(sent)
	}
	t.Logf("%d rounds, %d datagrams refused", rounds, refused)
	if through > 0 {
		t.Errorf("%d sends succeeded", through)
	}
	tap.settle(t, w.host)
	if frames := tap.seen(traffic); len(frames) > 0 {
		t.Errorf("%d frames came out", len(frames))
	}
}

func TestMany(t *testing.T) {
	const many = 5000
	ns := newNamespace(t)
	g := newGuard(t, ns)
	state := crowd(many)
	apply(t, g, state)
	if problems, err := g.Check(); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	generation := g.verified
	apply(t, g, state)
	if g.verified != generation {
		t.Error("an Apply of the same state sent a transaction")
	}
	state.Tagged = state.Tagged[:many-1]
	state.Direct = state.Direct[1 : many-1]
	state.Inbound = state.Inbound[:many-1]
	apply(t, g, state)
	if problems, err := g.Check(); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	// nft(8) takes cgroups only by path.
	conn, err := dialWriter(ns)
	if err != nil {
		t.Fatal(err)
	}
	var lost elementChange
	for _, s := range g.want.sets {
		if s.name == "inbound_1" {
			lost = elementChange{s, s.elements[7:8]}
		}
	}
	if err := (transaction{removeElements: []elementChange{lost}}).commit(conn, "guard_test"); err != nil {
		t.Fatal(err)
	}
	problems, err := g.Check()
	if err != nil || len(problems) != 1 {
		t.Error(problems, err)
	}
}

func TestDelete(t *testing.T) {
	ns := newNamespace(t)
	g := newGuard(t, ns)
	if err := g.Delete(); err != nil {
		t.Error("without a table:", err)
	}
	apply(t, g, crowd(10))
	names, err := Tables(ns, "guard_test")
	if err != nil || len(names) != 1 {
		t.Errorf("tables %v, %v", names, err)
	}
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	if names, err := Tables(ns, "guard_test"); err != nil || len(names) != 0 {
		t.Errorf("tables after delete %v, %v", names, err)
	}
	problems, err := g.Check()
	if err != nil || fmt.Sprint(problems) != "[table: missing]" {
		t.Errorf("check after delete: %v, %v", problems, err)
	}
	out := nft(t, ns, "list ruleset")
	if strings.TrimSpace(out) != "" {
		t.Errorf("left behind: %s", out)
	}
}

func TestAnotherGuardAdopts(t *testing.T) {
	ns := newNamespace(t)
	apply(t, newGuard(t, ns), crowd(100))
	second := newGuard(t, ns)
	if _, err := second.Check(); err == nil {
		t.Error("check before apply: want an error")
	}
	before, err := generationOf(ns)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, second, crowd(100))
	if after, err := generationOf(ns); err != nil || after != before {
		t.Errorf("generation %d, then %d (%v): the table was not adopted as it is", before, after, err)
	}
}

func generationOf(ns *os.File) (uint32, error) {
	c, err := dial(ns)
	if err != nil {
		return 0, err
	}
	defer c.nl.Close()
	return c.generation()
}
