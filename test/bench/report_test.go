package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// measured makes a comparison with one row whose values are those given.
func measured(b bar, values ...float64) comparison {
	return comparison{
		name: "one", title: "One", systems: []system{{name: "a"}}, figures: []figure{rate},
		samples: map[string][]sample{"a": {{result: result{Requests: 10, Wall: time.Second, TLS: "TLS 1.3"}}}},
		rows:    []row{{"the row", "the peer", b, func(map[string][]sample) []float64 { return values }}},
	}
}

func TestTable(t *testing.T) {
	most := atMost(1.15, 0.8, " ×", 2)
	failed := measured(most, 0.5, 0.5)
	failed.failure = errors.New("no way\nno other way")
	for _, c := range []struct {
		name string
		of   comparison
		met  bool
		want []string
	}{
		{"aim", measured(most, 0.5, 0.6, 0.7), true, []string{"| the row | 0.60 × (0.50–0.70) | ≤ 1.15 × | 0.80 × | the peer | aim |"}},
		{"held", measured(most, 0.5, 1.1, 1.2), true, []string{"| 1.10 × (0.50–1.20) |", "| held |"}},
		{"open", measured(most, 1.1, 1.2, 1.3), true, []string{"| open |"}},
		{"missed", measured(most, 1.2, 1.3, 1.4), false, []string{"| MISSED |"}},
		{"nothing", measured(most), false, []string{"| not measured | ≤ 1.15 × | 0.80 × | the peer | MISSED |"}},
		// What was measured before the failure does not count.
		{"failed", failed, false, []string{"| failed, see below |", "| MISSED |", "Not measured: no way.\n"}},
	} {
		var b strings.Builder
		if met := writeTable(&b, []comparison{c.of}); met != c.met {
			t.Errorf("%s: met is %v", c.name, met)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", c.name, want, b.String())
			}
		}
	}
	// One missed bar among others is enough.
	var b strings.Builder
	if writeTable(&b, []comparison{measured(most, 2), measured(most, 0.1)}) {
		t.Error("a missed bar and one that holds: met")
	}
}

func TestFigures(t *testing.T) {
	var b strings.Builder
	writeFigures(&b, []comparison{measured(atMost(1, 1, "", 0), 1), {failure: errors.New("no")}})
	want := "\n### One (`-case one`)\n\n| system | requests/s | the client's leg |\n|---|---|---|\n| a | 10 | TLS 1.3 |\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestRows(t *testing.T) {
	s := map[string][]sample{
		"a": {{result: result{P99: 7 * time.Millisecond}}, {result: result{P99: 4 * time.Millisecond}}},
		"b": {{result: result{P99: 2 * time.Millisecond}}, {result: result{P99: 8 * time.Millisecond}}},
	}
	for _, c := range []struct {
		name string
		of   func(map[string][]sample) []float64
		want [2]float64
	}{
		{"ratio", ratioOf(p99, "a", "b"), [2]float64{3.5, 0.5}},
		{"difference", differenceOf(p99, "a", "b"), [2]float64{5000, -4000}},
		{"value", valueOf(p99, "a"), [2]float64{7000, 4000}},
		{"scaled", scaled(1e-3, differenceOf(p99, "a", "b")), [2]float64{5, -4}},
	} {
		if got := c.of(s); len(got) != 2 || [2]float64(got) != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestComparisons: each case is there once under its name, compares systems
// that it has, and asks a row's values of those.
func TestComparisons(t *testing.T) {
	m := &machine{options: &options{}}
	seen := make(map[string]bool)
	for _, c := range m.comparisons(&peers{}, &gate{}, &gate{}, &options{window: time.Second, connections: 1}) {
		if seen[c.name] {
			t.Errorf("case %s twice", c.name)
		}
		seen[c.name] = true
		samples := make(map[string][]sample)
		for _, s := range c.systems {
			if samples[s.name] != nil {
				t.Errorf("case %s has %s twice", c.name, s.name)
			}
			samples[s.name] = []sample{{
				result: result{Requests: 1, All: 1, Bytes: 1e9, Wall: time.Second, P50: 1, P99: 1}, cpu: 1, perConnection: 1,
			}}
		}
		if len(c.rows) == 0 {
			t.Errorf("case %s has no row", c.name)
		}
		for _, r := range c.rows {
			if len(r.values(samples)) != 1 {
				t.Errorf("case %s: row %q does not compare systems of the case", c.name, r.title)
			}
		}
	}
	for _, n := range caseNames {
		if !seen[n] {
			t.Errorf("no case %s", n)
		}
	}
}

func TestReplaceChapter(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"in the middle", "# R\n\n## Latest run\n\nold\n\n### old\n\n## Next\nrest\n", "# R\n\n## Latest run\n\nnew\n\n## Next\nrest\n"},
		{"at the end", "# R\n\n## Latest run\nold", "# R\n\n## Latest run\n\nnew\n"},
		{"no such chapter", "# R\n## Latest runs\n", ""},
		{"not at the beginning of a line", "the ## Latest run\n", ""},
	} {
		got, err := replaceChapter(c.text, "new\n")
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
