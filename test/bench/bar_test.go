package main

import (
	"math"
	"testing"
)

func TestJudge(t *testing.T) {
	most, least := atMost(1.15, 0.8, " ×", 2), atLeast(0.9, 1.2, " ×", 2)
	for _, c := range []struct {
		name string
		bar  bar
		of   estimate
		want verdict
	}{
		{"at the aim", most, estimate{0.7, 0.8, 1.3}, aimReached},
		{"between aim and bar", most, estimate{0.7, 1.0, 1.3}, barHeld},
		{"at the bar", most, estimate{1.1, 1.15, 1.3}, barHeld},
		{"median over the bar, interval reaches it", most, estimate{1.15, 1.2, 1.3}, barOpen},
		{"whole interval over the bar", most, estimate{1.151, 1.2, 1.3}, barMissed},
		{"more is better, at the aim", least, estimate{0.5, 1.2, 1.3}, aimReached},
		{"more is better, at the bar", least, estimate{0.5, 0.9, 1.3}, barHeld},
		{"more is better, interval reaches the bar", least, estimate{0.5, 0.8, 0.9}, barOpen},
		{"more is better, whole interval under the bar", least, estimate{0.5, 0.8, 0.899}, barMissed},
		{"nothing measured", most, estimateOf(nil), barMissed},
		{"nothing measured, more is better", least, estimateOf(nil), barMissed},
		{"no number", most, estimate{0.1, math.NaN(), 0.2}, barMissed},
		{"infinite", most, estimate{math.Inf(1), math.Inf(1), math.Inf(1)}, barMissed},
	} {
		if got := c.bar.judge(c.of); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBarText(t *testing.T) {
	if b := atMost(1.15, 0.8, " ×", 2); b.limitText() != "≤ 1.15 ×" || b.aimText() != "0.80 ×" {
		t.Errorf("at most: %q, %q", b.limitText(), b.aimText())
	}
	if b := atLeast(0.9, 1.2, " ×", 1); b.limitText() != "≥ 0.9 ×" || b.aimText() != "1.2 ×" {
		t.Errorf("at least: %q, %q", b.limitText(), b.aimText())
	}
}
