package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTurn: in each round everybody is measured once, and over as many rounds
// as there are systems nobody is always first.
func TestTurn(t *testing.T) {
	for n := 1; n <= 4; n++ {
		first := make(map[int]bool)
		for round := range 2 * n {
			seen := make(map[int]bool)
			for i := range n {
				seen[turn(i, round, n)] = true
			}
			if len(seen) != n {
				t.Errorf("%d systems, round %d: %d were measured", n, round, len(seen))
			}
			first[turn(0, round, n)] = true
		}
		if len(first) != n {
			t.Errorf("%d systems: only %v were ever first", n, first)
		}
	}
}

func TestByPace(t *testing.T) {
	parts := []sample{{result: result{P50: 9}}, {result: result{P50: 1}}, {result: result{P50: 5}}}
	if byPace(parts); parts[0].P50 != 1 || parts[1].P50 != 5 {
		t.Errorf("%v", parts)
	}
	parts = []sample{{result: result{Wall: 9, Bytes: 1}}, {result: result{Wall: 10, Bytes: 10}}, {result: result{Wall: 8, Bytes: 2}}}
	if byPace(parts); parts[0].Wall != 10 || parts[1].Wall != 8 {
		t.Errorf("bodies: %v", parts)
	}
}

func TestAudit(t *testing.T) {
	const patience = 20 * time.Millisecond
	logged := func(n int) func() (int, error) { return func() (int, error) { return n, nil } }
	all := func(b *book) []comparison { return []comparison{{systems: []system{{}, {book: b}, {book: b}}}} }
	if err := audit(all(&book{"all", 10, logged(12)}), patience); err != nil {
		t.Error("all is logged:", err)
	}
	if err := audit(all(&book{"idle", 0, logged(0)}), patience); err != nil {
		t.Error("nothing was served:", err)
	}
	if err := audit(all(&book{"lazy", 10, logged(9)}), patience); err == nil || !strings.Contains(err.Error(), "lazy has logged 9 requests of at least 10") {
		t.Errorf("one is missing: %v", err)
	}
	if err := audit(all(&book{"mute", 10, func() (int, error) { return 10, errors.New("no log") }}), patience); err == nil {
		t.Error("a log that cannot be read passes")
	}
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		of   options
		want []string
	}{
		{options{}, caseNames[:]},
		{options{cases: "h2,bulk"}, []string{"h2", "bulk"}},
		{options{cases: "h3"}, nil},
		{options{hold: "inspect"}, []string{"h1"}},
		{options{hold: "inspect", cases: "h2"}, []string{"h2"}},
		{options{hold: "inspect", cases: "h2,bulk"}, nil},
	} {
		got, err := c.of.wanted()
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%+v: %v, %v", c.of, got, err)
		}
	}
}

func TestSummary(t *testing.T) {
	if _, err := summary([][]time.Duration{nil, nil}, time.Second); err == nil {
		t.Error("no request at all is a result")
	}
	var times []time.Duration
	for i := range 200 {
		times = append(times, time.Duration(200-i))
	}
	r, err := summary([][]time.Duration{times[:50], times[50:]}, time.Second)
	if err != nil || r.Requests != 200 || r.P50 != 101 || r.P99 != 199 {
		t.Errorf("%+v, %v", r, err)
	}
}
