package main

import (
	"fmt"
	"math"
)

// A bar is what a row must hold and what it is meant to reach.
type bar struct {
	limit, aim float64
	atLeast    bool   // more is better
	unit       string // of limit and aim, as printed after them
	digits     int    // behind the point
}

// atMost and atLeast make the two kinds of bar.
func atMost(limit, aim float64, unit string, digits int) bar {
	return bar{limit: limit, aim: aim, unit: unit, digits: digits}
}

func atLeast(limit, aim float64, unit string, digits int) bar {
	return bar{limit: limit, aim: aim, atLeast: true, unit: unit, digits: digits}
}

// A verdict is what a row comes to.
type verdict string

const (
	aimReached verdict = "aim"    // the median is as good as the aim
	barHeld    verdict = "held"   // the median is as good as the bar
	barOpen    verdict = "open"   // the median is not, but the interval reaches the bar: this run does not tell
	barMissed  verdict = "MISSED" // the whole interval is on the wrong side, or there is nothing to judge
)

// judge gives the verdict on what was measured. Nothing measured and what is
// no number are missed bars: a row that cannot be judged does not pass.
func (b bar) judge(e estimate) verdict {
	if math.IsNaN(e.low) || math.IsNaN(e.median) || math.IsNaN(e.high) {
		return barMissed
	}
	better := func(a, b float64) bool { return a <= b }
	best := e.low
	if b.atLeast {
		better = func(a, b float64) bool { return a >= b }
		best = e.high
	}
	switch {
	case better(e.median, b.aim) && better(e.median, b.limit):
		return aimReached
	case better(e.median, b.limit):
		return barHeld
	case better(best, b.limit):
		return barOpen
	default:
		return barMissed
	}
}

// number prints a value with the bar's digits and unit.
func (b bar) number(v float64) string { return fmt.Sprintf("%.*f%s", b.digits, v, b.unit) }

// limitText and aimText are the columns of the table.
func (b bar) limitText() string {
	if b.atLeast {
		return "≥ " + b.number(b.limit)
	}
	return "≤ " + b.number(b.limit)
}

func (b bar) aimText() string { return b.number(b.aim) }
