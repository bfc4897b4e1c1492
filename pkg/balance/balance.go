// Package balance chooses among the targets of an upstream: by its algorithm,
// among those that are healthy. What is known of a target's health outlives
// reloads of the configuration. It also says when a request may be tried again.
package balance

import (
	"context"
	"iter"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/config"
)

// Options are what a Set works with.
type Options struct {
	// Dial opens a connection to a target of the upstream for an active check; in
	// TLS if secure, verified under the target's own name. Without it nothing is
	// checked actively.
	Dial func(ctx context.Context, upstream string, t *Target, secure bool) (net.Conn, error)
	// Changed is told when a target changes its health; nil: nobody. It must not
	// wait.
	Changed func(Change)
}

// A Change is a target that is healthy again, or no longer.
type Change struct {
	Upstream, Target string
	Healthy          bool
	// Why says what was seen.
	Why string
}

// A Set is the upstreams and retry budgets of all rules, through any number of
// reloads.
type Set struct {
	opt Options
	// wake makes Run look anew at what is due.
	wake   chan struct{}
	checks atomic.Int64

	mu      sync.Mutex
	current []*Upstream
	groups  map[string]*group
	budgets map[string]*Budget
}

// A group is what is known of the targets of one upstream, whatever its
// configuration.
type group struct {
	// version changes with the health of any target.
	version atomic.Uint64
	// next counts what was chosen in turn.
	next   atomic.Uint64
	states map[string]*state
}

// New makes a set without upstreams. It starts nothing.
func New(o Options) *Set {
	return &Set{opt: o, wake: make(chan struct{}, 1), groups: make(map[string]*group), budgets: make(map[string]*Budget)}
}

// A Rule is what a rule of the configuration does about targets and retries.
type Rule struct {
	// Upstream is nil where the request goes to its own host.
	Upstream *Upstream
	// Retry is nil where a request is tried once; Budget is set with it.
	Retry  *config.Retry
	Budget *Budget
}

// Rules are those of a configuration, in order.
type Rules []Rule

// Of gives the rule at a place counted from 1, as policy.Decision.Index does;
// a zero Rule where there is none.
func (r Rules) Of(index int) Rule {
	if index < 1 || index > len(r) {
		return Rule{}
	}
	return r[index-1]
}

// Apply makes c the configuration that holds, and gives its rules. What is known
// of the targets and budgets that it still has stays; the rest is forgotten.
func (s *Set) Apply(c *config.Config) Rules {
	s.mu.Lock()
	defer s.mu.Unlock()
	groups := make(map[string]*group, len(c.Upstreams))
	upstreams := make(map[string]*Upstream, len(c.Upstreams))
	s.current = s.current[:0:0]
	for i := range c.Upstreams {
		u := newUpstream(s, &c.Upstreams[i], s.groups[c.Upstreams[i].Name])
		groups[u.Name], upstreams[u.Name] = u.group, u
		s.current = append(s.current, u)
	}
	s.groups = groups
	rules := make(Rules, len(c.Rules))
	budgets := make(map[string]*Budget)
	for i := range c.Rules {
		r := &c.Rules[i]
		rules[i].Upstream = upstreams[r.Upstream]
		if r.Retry != nil {
			b := s.budgets[r.Name]
			if b == nil {
				b = new(Budget)
			}
			budgets[r.Name] = b
			rules[i].Retry, rules[i].Budget = r.Retry, b
		}
	}
	s.budgets = budgets
	s.hurry()
	return rules
}

// hurry makes Run look anew.
func (s *Set) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Upstream gives the upstream of that name as the last Apply made it, nil for
// none.
func (s *Set) Upstream(name string) *Upstream {
	for _, u := range s.upstreams() {
		if u.Name == name {
			return u
		}
	}
	return nil
}

func (s *Set) upstreams() []*Upstream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// A TargetHealth is what is known of a target; Why is "" for a healthy one.
type TargetHealth struct {
	Target  string
	Healthy bool
	Why     string
}

// Health walks all targets, each with the name of its upstream.
func (s *Set) Health() iter.Seq2[string, TargetHealth] {
	return func(yield func(string, TargetHealth) bool) {
		for _, u := range s.upstreams() {
			for _, t := range u.targets {
				healthy, why := t.state.health()
				if !yield(u.Name, TargetHealth{t.name, healthy, why}) {
					return
				}
			}
		}
	}
}

// Unhealthy walks the targets that are not healthy, with what made them so.
func (u *Upstream) Unhealthy() iter.Seq2[*Target, string] {
	return func(yield func(*Target, string) bool) {
		for _, t := range u.targets {
			if healthy, why := t.state.health(); !healthy && !yield(t, why) {
				return
			}
		}
	}
}

// Checks tells how many active checks run, and how many may.
func (s *Set) Checks() (running, capacity int) { return int(s.checks.Load()), maxChecks }

// An Upstream is an entry of `upstreams`, ready to be asked for targets. Any
// number of goroutines use it.
type Upstream struct {
	Name string
	// PreserveHost forwards the request's own Host.
	PreserveHost bool

	set       *Set
	group     *group
	algorithm config.Algorithm
	hashOn    config.HashKey
	slowStart time.Duration
	active    config.ActiveCheck
	passive   config.PassiveCheck
	failures  [1000]bool // statuses that are failures, passively
	targets   []*Target
	// ring is for consistent hashing.
	ring []point
	// counts says that the algorithm goes by what is open at each target.
	counts bool

	plan atomic.Pointer[plan]
	mu   sync.Mutex
}

// A Target is one of an upstream.
type Target struct {
	// Host is canonical: a name or an address.
	Host string
	Port uint16

	index  int
	weight int
	name   string
	up     *Upstream
	state  *state
	// addrs is what the proxy last found out about Host.
	addrs atomic.Pointer[Addresses]
}

// String gives host:port.
func (t *Target) String() string { return t.name }

// Index is the target's place in its upstream, from 0.
func (t *Target) Index() int { return t.index }

// Len gives the number of targets.
func (u *Upstream) Len() int { return len(u.targets) }

func newUpstream(s *Set, c *config.Upstream, g *group) *Upstream {
	u := &Upstream{
		Name: c.Name, PreserveHost: c.PreserveHost, set: s, algorithm: c.Algorithm, hashOn: c.HashOn, slowStart: c.SlowStart,
		active: c.Active, passive: c.Passive, group: &group{states: make(map[string]*state)},
		counts: c.Algorithm == config.LeastConn || c.Algorithm == config.Random,
	}
	for _, status := range c.Passive.Statuses {
		if status >= 0 && status < len(u.failures) {
			u.failures[status] = true
		}
	}
	if g != nil {
		u.group.next.Store(g.next.Load())
	}
	for i, t := range c.Targets {
		name := net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
		var st *state
		if g != nil {
			st = g.states[name]
		}
		if st == nil {
			st = new(state)
		}
		u.group.states[name] = st
		u.targets = append(u.targets, &Target{Host: t.Host, Port: t.Port, index: i, weight: t.Weight, name: name, up: u, state: st})
	}
	for _, t := range u.targets {
		t.state.adopt(u)
	}
	if u.algorithm == config.ConsistentHash {
		u.ring = newRing(u.targets)
	}
	return u
}
