package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// A plan is what is chosen from as long as no target changes its health.
type plan struct {
	// version is the group's for which it was made.
	version uint64
	// due is when it is no longer good, in ns since 1970: a weight grows, or an
	// unhealthy target may be tried.
	due int64
	// targets are the healthy ones with their weights at this time.
	targets []*Target
	weights []int
	// order is a whole period of the smooth weighted round robin.
	order []uint16
	// sums are the weights added up.
	sums []int
}

// Pick chooses a target for a request with that key (Key), other than those
// tried before where there is another one; false where none is healthy. It takes
// no lock and allocates nothing but where the health of a target has changed
// since.
func (u *Upstream) Pick(key uint64, tried []*Target, now time.Time) (Lease, bool) {
	return u.pick(key, tried, now, true)
}

// Ask is Pick for who sends no request, and so finds out nothing about a target
// that is unhealthy.
func (u *Upstream) Ask(key uint64, tried []*Target, now time.Time) (Lease, bool) {
	return u.pick(key, tried, now, false)
}

func (u *Upstream) pick(key uint64, tried []*Target, now time.Time, trials bool) (Lease, bool) {
	p := u.plan.Load()
	if p == nil || p.version != u.group.version.Load() || now.UnixNano() >= p.due {
		var trial *Target
		if p, trial = u.replan(now, tried, trials); trial != nil {
			if u.counts {
				trial.state.open.Add(1)
			}
			return Lease{Target: trial, trial: true}, true
		}
	}
	if len(p.targets) == 0 {
		return Lease{}, false
	}
	t := u.choose(p, key, tried)
	if t == nil && len(tried) > 0 {
		t = u.choose(p, key, nil)
	}
	if t == nil {
		return Lease{}, false
	}
	if u.counts {
		t.state.open.Add(1)
	}
	return Lease{Target: t}, true
}

// Prefer gives the target itself where it is one of the upstream and healthy,
// and no key says which one it must be.
func (u *Upstream) Prefer(t *Target) (Lease, bool) {
	if t == nil || t.up != u || u.algorithm == config.ConsistentHash || t.state.down.Load() {
		return Lease{}, false
	}
	if u.counts {
		t.state.open.Add(1)
	}
	return Lease{Target: t}, true
}

// choose gives nil where all that are healthy were tried.
func (u *Upstream) choose(p *plan, key uint64, tried []*Target) *Target {
	switch {
	case u.algorithm == config.ConsistentHash && key != 0:
		return u.hashed(key, tried)
	case u.algorithm == config.LeastConn:
		return u.leastConn(p, tried)
	case u.algorithm == config.Random:
		return u.random(p, tried)
	}
	t, _ := u.inTurn(p, tried)
	return t
}

// inTurn is round robin.
func (u *Upstream) inTurn(p *plan, tried []*Target) (*Target, int) {
	n := uint64(len(p.order))
	at := (u.group.next.Add(1) - 1) % n
	for range n {
		i := int(p.order[at])
		if t := p.targets[i]; len(tried) == 0 || !slices.Contains(tried, t) {
			return t, i
		}
		if at++; at == n {
			at = 0
		}
	}
	return nil, 0
}

// leastConn gives the target with the fewest open exchanges for its weight; of
// several the one whose turn it is.
func (u *Upstream) leastConn(p *plan, tried []*Target) *Target {
	best, at := u.inTurn(p, tried)
	if best == nil {
		return nil
	}
	least := best.state.open.Load()
	for i, t := range p.targets {
		if t == best || len(tried) > 0 && slices.Contains(tried, t) {
			continue
		}
		if n := t.state.open.Load(); n*int64(p.weights[at]) < least*int64(p.weights[i]) {
			best, at, least = t, i, n
		}
	}
	return best
}

// random gives of two targets, chosen at random by their weights, the one with
// fewer open exchanges for its weight.
func (u *Upstream) random(p *plan, tried []*Target) *Target {
	first := p.draw(tried, nil)
	if first < 0 {
		return nil
	}
	second := p.draw(tried, p.targets[first])
	if second < 0 {
		return p.targets[first]
	}
	a, b := p.targets[first], p.targets[second]
	if b.state.open.Load()*int64(p.weights[first]) < a.state.open.Load()*int64(p.weights[second]) {
		return b
	}
	return a
}

// draw gives a target by its weight which is neither among tried nor the other
// one; -1 where there is none.
func (p *plan) draw(tried []*Target, other *Target) int {
	total := p.sums[len(p.sums)-1]
	excluded := func(t *Target) bool { return t == other || len(tried) > 0 && slices.Contains(tried, t) }
	// A few are drawn anew before the weights are added up without them.
	for range 4 {
		n := rand.IntN(total)
		i := sort.SearchInts(p.sums, n+1)
		if !excluded(p.targets[i]) {
			return i
		}
	}
	left := 0
	for i, t := range p.targets {
		if !excluded(t) {
			left += p.weights[i]
		}
	}
	if left == 0 {
		return -1
	}
	n := rand.IntN(left)
	for i, t := range p.targets {
		if excluded(t) {
			continue
		}
		if n -= p.weights[i]; n < 0 {
			return i
		}
	}
	return -1
}

// Key gives what the algorithm goes by in a request, 0 for nothing: round robin
// is in the place of a hash then. req is nil where no request is known yet.
func (u *Upstream) Key(workload string, req *exchange.Request) uint64 {
	if u.algorithm != config.ConsistentHash {
		return 0
	}
	text := workload
	switch {
	case u.hashOn.By == config.HashWorkload:
	case req == nil:
		return 0
	case u.hashOn.By == config.HashPath:
		text = req.Path
	default:
		text = req.Header.Get(u.hashOn.Header)
	}
	if text == "" {
		return 0
	}
	return max(hash(text), 1)
}

// replan makes the plan anew, and with trials gives an unhealthy target that is
// to be tried.
func (u *Upstream) replan(now time.Time, tried []*Target, trials bool) (*plan, *Target) {
	u.mu.Lock()
	defer u.mu.Unlock()
	version := u.group.version.Load()
	if p := u.plan.Load(); p != nil && p.version == version && now.UnixNano() < p.due {
		return p, nil
	}
	var trial *Target
	p := &plan{version: version, due: math.MaxInt64}
	until := func(at time.Time) { p.due = min(p.due, at.UnixNano()) }
	for _, t := range u.targets {
		if t.weight == 0 {
			continue
		}
		s := t.state
		s.mu.Lock()
		switch {
		case !s.down.Load():
			weight, next := u.ramp(t.weight, s.since, now)
			if !next.IsZero() {
				until(next)
			}
			p.targets, p.weights = append(p.targets, t), append(p.weights, weight)
		case s.trialAt.IsZero():
		case trials && trial == nil && !now.Before(s.trialAt) && !slices.Contains(tried, t):
			trial = t
			s.trialAt = now.Add(u.passive.RecoverAfter)
			until(s.trialAt)
		default:
			until(s.trialAt)
		}
		s.mu.Unlock()
	}
	p.finish()
	u.plan.Store(p)
	return p, trial
}

// rampSteps is in how many steps the weight of a target grows during slow start.
const rampSteps = 10

// ramp gives the weight of a target at this time, and when it grows next.
func (u *Upstream) ramp(weight int, since, now time.Time) (int, time.Time) {
	if u.slowStart <= 0 || since.IsZero() || now.Sub(since) >= u.slowStart {
		return weight * rampSteps, time.Time{}
	}
	step := u.slowStart / rampSteps
	if step <= 0 {
		return weight * rampSteps, time.Time{}
	}
	n := max(now.Sub(since)/step, 0) + 1
	return weight * int(n), since.Add(n * step)
}

// finish fills in what follows from targets and weights.
func (p *plan) finish() {
	sum := 0
	p.sums = make([]int, len(p.weights))
	for i, w := range p.weights {
		sum += w
		p.sums[i] = sum
	}
	p.order = smooth(p.weights)
}
