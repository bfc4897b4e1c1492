package balance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Result is what a target made of a request or check.
type Result uint8

// The results. Nothing is known of the target by one that somebody else ended.
const (
	Nothing Result = iota
	Success
	// HTTPFailure is a status that stands for a failure.
	HTTPFailure
	// TCPFailure is a target that cannot be reached, does not prove who it is, or
	// breaks off.
	TCPFailure
	// Timeout is one that does not answer in time.
	Timeout
)

// A state is what is known of a target.
type state struct {
	// down is true of an unhealthy target.
	down atomic.Bool
	// open counts the exchanges at the target, where the algorithm asks.
	open atomic.Int64
	// tainted says that something is counted.
	tainted atomic.Bool

	mu sync.Mutex
	// The counters are Kong's: successes in a row, and failures of each kind since
	// the last success, of active and passive checks together.
	successes, http, tcp, timeouts int
	// why says what made the target unhealthy.
	why string
	// since is when the target became healthy again, zero: it always was.
	since time.Time
	// trialAt is when one request may try an unhealthy target; zero: never.
	trialAt time.Time
	// checkAt is when the next active check is due, checking that one runs.
	checkAt  time.Time
	checking bool
	// group learns of each change of health.
	group *group
}

// health tells whether the target is healthy, and why not.
func (s *state) health() (healthy bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.down.Load(), s.why
}

// adopt makes the state one of an upstream as it is configured now.
func (s *state) adopt(u *Upstream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group = u.group
	s.trialAt = time.Time{}
	if s.down.Load() {
		s.trialAt = u.trialFrom(time.Now())
		if s.trialAt.IsZero() && !u.recovers() {
			// Nothing that is configured could ever bring it back.
			s.upLocked(time.Now())
		}
	}
	s.checkAt = time.Time{}
}

// recovers reports whether active checks bring targets back.
func (u *Upstream) recovers() bool {
	return u.set.opt.Dial != nil && u.active.Healthy.Successes > 0 && u.active.Unhealthy.Interval > 0
}

// trialFrom gives the time of the first trial of a target that is unhealthy
// from now on.
func (u *Upstream) trialFrom(now time.Time) time.Time {
	if u.recovers() || u.passive.RecoverAfter <= 0 {
		return time.Time{}
	}
	return now.Add(u.passive.RecoverAfter)
}

// A threshold is how many of each result change the health of a target; 0 is
// off.
type threshold struct{ successes, http, tcp, timeouts int }

// count takes a result and gives the change that it makes, if any.
func (t *Target) count(r Result, limit threshold, why string, now time.Time) (Change, bool) {
	s := t.state
	s.mu.Lock()
	defer s.mu.Unlock()
	down := s.down.Load()
	if r == Success {
		s.http, s.tcp, s.timeouts = 0, 0, 0
		if !down || limit.successes == 0 {
			s.tainted.Store(s.successes > 0)
			return Change{}, false
		}
		if s.successes++; s.successes < limit.successes {
			s.tainted.Store(true)
			return Change{}, false
		}
		s.upLocked(now)
		return Change{Upstream: t.up.Name, Target: t.name, Healthy: true, Why: why}, true
	}
	counter, most := &s.http, limit.http
	switch r {
	case TCPFailure:
		counter, most = &s.tcp, limit.tcp
	case Timeout:
		counter, most = &s.timeouts, limit.timeouts
	}
	if most == 0 {
		return Change{}, false
	}
	s.successes = 0
	if down {
		return Change{}, false
	}
	s.tainted.Store(true)
	if *counter++; *counter < most {
		return Change{}, false
	}
	if most > 1 {
		why = fmt.Sprintf("%s (%d since the last success)", why, most)
	}
	s.successes, s.http, s.tcp, s.timeouts = 0, 0, 0, 0
	s.why, s.trialAt = why, t.up.trialFrom(now)
	s.down.Store(true)
	s.tainted.Store(false)
	s.movedLocked(now.Add(t.up.active.Unhealthy.Interval))
	return Change{Upstream: t.up.Name, Target: t.name, Why: why}, true
}

// upLocked makes the target healthy.
func (s *state) upLocked(now time.Time) {
	s.successes, s.http, s.tcp, s.timeouts = 0, 0, 0, 0
	s.why, s.trialAt, s.since = "", time.Time{}, now
	s.down.Store(false)
	s.tainted.Store(false)
	s.movedLocked(now)
}

// movedLocked tells whoever chooses that the health has changed. The next check
// is due at another time than it was.
func (s *state) movedLocked(next time.Time) {
	s.group.version.Add(1)
	if s.checkAt.After(next) {
		s.checkAt = next
	}
}

// A Lease is a target that was chosen for one try. Failed or Answered tells what
// that came to, and End when the target has nothing more to do with it.
type Lease struct {
	Target *Target
	// trial says that the target is unhealthy and that this try finds out whether
	// it still is.
	trial bool
}

// Failed tells of a try that got no response.
func (l Lease) Failed(r Result, why string) { l.report(r, why) }

// Answered tells of a response.
func (l Lease) Answered(status int) {
	if status >= 0 && status < len(l.Target.up.failures) && l.Target.up.failures[status] {
		l.report(HTTPFailure, fmt.Sprintf("it answered %d", status))
		return
	}
	l.report(Success, "it answered")
}

// report takes what a request met.
func (l Lease) report(r Result, why string) {
	t := l.Target
	if r == Nothing || r == Success && !l.trial && !t.state.tainted.Load() {
		return
	}
	p := &t.up.passive.Unhealthy
	limit := threshold{http: p.HTTPFailures, tcp: p.TCPFailures, timeouts: p.Timeouts}
	if l.trial {
		limit.successes = 1
	}
	if c, changed := t.count(r, limit, why, time.Now()); changed {
		t.up.set.changed(c)
	}
}

// End says that the exchange at the target is over. That of a zero Lease does
// nothing.
func (l Lease) End() {
	if l.Target != nil && l.Target.up.counts {
		l.Target.state.open.Add(-1)
	}
}

func (s *Set) changed(c Change) {
	s.hurry()
	if s.opt.Changed != nil {
		s.opt.Changed(c)
	}
}
