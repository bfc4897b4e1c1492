package pattern

// Overlaps reports whether some string may match both globs. Where two sets
// meet and one of them is negated it says yes without looking.
func (g *Glob) Overlaps(o *Glob) bool {
	if g.isExact {
		return o.Match(g.exact)
	}
	if o.isExact {
		return g.Match(o.exact)
	}
	a, b := g.units(), o.units()
	// after[j] tells whether a[i+1:] and b[j:] can match the same string, here[j]
	// the same for a[i:].
	after := make([]bool, len(b)+1)
	here := make([]bool, len(b)+1)
	for i := len(a); i >= 0; i-- {
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a) && j == len(b):
				here[j] = true
			case i < len(a) && a[i].kind == globRun:
				here[j] = after[j] || j < len(b) && here[j+1]
			case j < len(b) && b[j].kind == globRun:
				here[j] = here[j+1] || i < len(a) && after[j]
			default:
				here[j] = i < len(a) && j < len(b) && after[j+1] && a[i].meets(&b[j])
			}
		}
		after, here = here, after
	}
	return after[0]
}

// units splits literals into single characters.
func (g *Glob) units() []globToken {
	var units []globToken
	for _, t := range g.tokens {
		if t.kind != globLiteral {
			units = append(units, t)
			continue
		}
		for _, r := range t.literal {
			units = append(units, globToken{kind: globSet, set: runeSet{ranges: []runeRange{{r, r}}}})
		}
	}
	return units
}

// meets reports whether some character matches both units, neither of which is
// a run.
func (t *globToken) meets(o *globToken) bool {
	if t.kind == globOne || o.kind == globOne || t.set.negated || o.set.negated {
		return true
	}
	for _, x := range t.set.ranges {
		for _, y := range o.set.ranges {
			if x.first <= y.last && y.first <= x.last {
				return true
			}
		}
	}
	return false
}
