package convert

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"sallyport/pkg/config"
)

// A Unit is one way through the gateway to an origin: a route or a location.
type Unit struct {
	Rule Rule
	// Place is where it stands in the source.
	Place Place
	// Holes are the requests that the gateway answered itself or sent elsewhere,
	// though they lie among those of Rule.
	Holes []Hole
	// Rank orders units before anything else: a gateway looks at some first.
	Rank int
}

// A Hole is a part of a unit's requests that never reached its origin.
type Hole struct {
	Paths   []Pattern
	Methods []string
	Headers []Header
	When    string
	Comment string
}

// An entry is a rule to be, with what decides on its place.
type entry struct {
	rule Rule
	unit int
	at   Place
	rank int
}

// depth is how long the paths are that the entry surely asks for.
func (e *entry) depth() int {
	least := -1
	for _, p := range e.rule.Match.Paths {
		if n := len(p.head()); least < 0 || n < least {
			least = n
		}
	}
	return least
}

// Arrange puts rules into an order in which the first that matches does what the
// gateway did: for each origin the most specific first, and each unit's holes
// before the unit. What could never be reached is left out, what is the same but
// for its paths becomes one rule, and limits that several rules shared are
// divided among them.
func Arrange(units []Unit, notes *Notes) []Rule {
	var order []string
	groups := make(map[string][]entry)
	for i, u := range units {
		target := u.Rule.Match.target()
		if _, known := groups[target]; !known {
			order = append(order, target)
		}
		for _, h := range u.Holes {
			groups[target] = append(groups[target], entry{h.rule(&u.Rule), i, u.Place, u.Rank})
		}
		groups[target] = append(groups[target], entry{u.Rule, i, u.Place, u.Rank})
	}
	names := make(Names)
	var rules []Rule
	for _, target := range order {
		rules = append(rules, reachable(sorted(groups[target]), units, notes)...)
	}
	for i := range rules {
		rules[i].Name = names.Unique(rules[i].Name)
	}
	divide(rules, notes)
	return rules
}

// rule gives the refusal of the hole.
func (h *Hole) rule(of *Rule) Rule {
	m := of.Match
	m.Workloads = nil
	m.Paths, m.Methods, m.Headers, m.When = h.Paths, h.Methods, h.Headers, h.When
	return Rule{Name: of.Name + "-not", Deny: true, Match: m, Comment: []string{h.Comment}}
}

// sorted gives the entries of one origin in order.
func sorted(entries []entry) []entry {
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(
			cmp.Compare(a.rank, b.rank),
			cmp.Compare(b.depth(), a.depth()),
			cmp.Compare(b.rule.Match.conditions(), a.rule.Match.conditions()),
			// Of two that are alike, what one unit sends counts before what another
			// does not.
			cmp.Compare(btoi(a.rule.Deny), btoi(b.rule.Deny)),
		)
	})
	out := make([]entry, 0, len(entries))
	written := make(map[int]bool)
	for i, e := range entries {
		if written[i] {
			continue
		}
		if !e.rule.Deny {
			for j := i + 1; j < len(entries); j++ {
				if entries[j].rule.Deny && entries[j].unit == e.unit && !written[j] {
					written[j] = true
					out = append(out, entries[j])
				}
			}
		}
		out = append(out, e)
	}
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// reachable gives the rules of the entries: neighbours that differ in their paths
// only become one. It leaves out what an earlier rule, as it is written, decides
// wholly, and refusals after which nothing is allowed.
func reachable(entries []entry, units []Unit, notes *Notes) (rules []Rule) {
	var kept []entry
	last := -1
	for _, e := range entries {
		i := slices.IndexFunc(kept, func(k entry) bool { return k.rule.decides(&e.rule, &units[e.unit].Rule) })
		switch {
		case i < 0 && !e.rule.Deny && len(kept) > 0 && same(&kept[len(kept)-1].rule, &e.rule):
			before := &kept[len(kept)-1].rule
			before.Comment = append(slices.Clip(before.Comment), e.rule.Comment...)
			before.Match.Paths = append(slices.Clip(before.Match.Paths), e.rule.Match.Paths...)
		case i < 0:
			kept = append(kept, e)
			if !e.rule.Deny {
				last = len(kept) - 1
			}
		case e.rule.Deny:
		case kept[i].rule.Deny:
			notes.Add(e.at, Lost, "%s: what it sends to %s was refused on another way to the same origin, and is refused here; allow it in a rule of your own if it is wanted",
				e.rule.Name, strings.Join(e.rule.Match.Hosts, ", "))
		default:
			if same(&kept[i].rule, &e.rule) {
				kept[i].rule.Comment = append(slices.Clip(kept[i].rule.Comment), e.rule.Comment...)
				continue
			}
			notes.Add(e.at, Changed, "%s: a direct request cannot be told from one of %s (%s), whose rule decides both; check that its limits are those you want",
				e.rule.Name, kept[i].rule.Name, kept[i].at)
		}
	}
	for _, k := range kept[:last+1] {
		rules = append(rules, k.rule)
	}
	return rules
}

// decides reports whether o, behind r, need not be written, since r holds wherever
// o does. Of a path, method or field that can be read in several ways a rule that
// allows takes less than one that refuses: it must hold for every reading, so that
// "//b" is no "/b" for the one and is for the other. Without o such a request
// passes by of, the rule of whose holes o is one, which is the same only where of
// asks as much as r.
func (r *Rule) decides(o, of *Rule) bool {
	return r.Match.covers(&o.Match) && (r.Deny || !o.Deny || r.Match.everything() || alike(r, of))
}

// alike reports whether two rules do the same with what matches them.
func alike(a, b *Rule) bool {
	x := *a
	x.Match = b.Match
	return same(&x, b)
}

// same reports whether two rules differ at most in name, comment and paths.
func same(a, b *Rule) bool {
	x, y := *a, *b
	x.Name, x.Comment, x.Match.Paths = y.Name, y.Comment, y.Match.Paths
	return reflect.DeepEqual(x, y)
}

// divide gives each of the rules that shared a counter its part of the limit:
// counters are of one rule here, and together the rules must not let more through.
func divide(rules []Rule, notes *Notes) {
	users := make(map[string][]int)
	var order []Shared
	for i := range rules {
		for _, s := range rules[i].Shared {
			if len(users[s.ID]) == 0 {
				order = append(order, s)
			}
			users[s.ID] = append(users[s.ID], i)
		}
	}
	for _, s := range order {
		parts := users[s.ID]
		if len(parts) < 2 {
			continue
		}
		notes.Add(s.Place, Changed, "%s: one counter was shared by what is now %d rules, which count for themselves; each got its part of the limit: raise them, or join the rules, as you like",
			s.What, len(parts))
		for n, i := range parts {
			r := &rules[i]
			r.Stages.RateLimits = slices.Clone(r.Stages.RateLimits)
			r.Stages.Throttles = slices.Clone(r.Stages.Throttles)
			for _, mine := range r.Shared {
				if mine.ID != s.ID {
					continue
				}
				ok := true
				if mine.Rate >= 0 {
					ok = divideRate(&r.Stages.RateLimits[mine.Rate], n, len(parts))
				}
				if mine.Throttle >= 0 {
					ok = divideThrottle(&r.Stages.Throttles[mine.Throttle], n, len(parts)) && ok
				}
				if !ok {
					r.Deny = true
					r.Comment = append(slices.Clip(r.Comment), fmt.Sprintf("Refused: %s is too little to be divided by %d.", s.What, len(parts)))
				}
			}
		}
	}
}

// divideRate leaves the n-th of k rules its part; false where that is nothing.
func divideRate(l *config.RateLimit, n, k int) bool {
	for _, window := range []*int64{&l.Second, &l.Minute, &l.Hour, &l.Day} {
		switch {
		case *window == 0:
		case *window >= int64(k):
			*window /= int64(k)
		case int64(n) < *window:
			*window = 1
		default:
			return false
		}
	}
	return true
}

// divideThrottle does the same for a throttle, whose least rate is one request a
// minute. At once a throttle lets its burst and one more through, and together the
// parts no more than that, but that each part lets one.
func divideThrottle(t *config.Throttle, n, k int) bool {
	perMinute := t.Requests
	if t.Per == time.Second {
		perMinute *= 60
	}
	nodelay := t.Delay == t.Burst
	switch {
	case perMinute >= int64(k):
		perMinute /= int64(k)
	case int64(n) < perMinute:
		perMinute = 1
	default:
		return false
	}
	t.Requests, t.Per = perMinute, time.Minute
	if perMinute%60 == 0 {
		t.Requests, t.Per = perMinute/60, time.Second
	}
	t.Burst = max(0, (t.Burst+1)/int64(k)-1)
	t.Delay = min(t.Delay/int64(k), t.Burst)
	if nodelay {
		t.Delay = t.Burst
	}
	return true
}
