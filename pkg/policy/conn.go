package policy

import "sallyport/pkg/policy/pattern"

// DecideConn judges a connection before any request is seen. q.HTTP is not
// looked at. A rule that could match and needs to see the request makes the
// connection one to inspect, also where a later tunnel rule then allows it; it
// is refused at once where nothing that follows could allow it.
func (p *Policy) DecideConn(q *Query) ConnDecision {
	if p == nil {
		return ConnDecision{Decision: refused(q, ruleless, NoRule)}
	}
	bare := *q
	bare.HTTP = nil
	var ask asked
	p.ask(&ask, &bare)
	// Each rule that could match counts, whatever its methods.
	ask.methods = noRequest | anyMethod
	var c cursor
	mayBeNamed := bare.Host == "" && canCarryHTTP(bare.Protocol)
	if mayBeNamed {
		// A request may bring the name.
		c.add(p.all)
	} else {
		p.hosts.candidates(&c, bare.Host)
	}
	var open connState
	for {
		list := c.next()
		if list == nil {
			return open.decide(p.fallback(&ask), &ask)
		}
		for i := range list {
			k := &list[i]
			if k.methods&ask.methods == 0 || k.protocols&ask.protocols == 0 ||
				bare.Port < k.first || bare.Port > k.last {
				continue
			}
			r := &p.rules[k.rule]
			switch p.checkUnseen(r, &ask, mayBeNamed) {
			case holds:
				return open.decide(p.decided(r, &ask), &ask)
			case unknown:
				open.any = true
				if open.allow = open.allow || r.allow || r.observes(p, &ask); open.allow {
					// Whatever follows, its requests must be seen.
					return open.decide(Decision{}, &ask)
				}
			}
		}
	}
}

// observes reports whether a refusal of the rule would be recorded only.
func (r *rule) observes(p *Policy, ask *asked) bool {
	return p.modeOf(r, ask.q.Workload) == Observe
}

// canCarryHTTP reports whether a request may yet be seen on the connection.
func canCarryHTTP(p Protocol) bool { return p != TCP && p != UDP }

// checkUnseen compares a rule with a connection whose requests are not seen yet.
func (p *Policy) checkUnseen(r *rule, ask *asked, mayBeNamed bool) outcome {
	out, _ := p.checkConn(r, ask)
	switch {
	case out == fails:
		return fails
	case mayBeNamed && len(r.hosts) > 0:
		return unknown
	case !r.needsRequest:
		return out
	case canCarryHTTP(ask.q.Protocol):
		return unknown
	case r.allow:
		return fails
	default:
		// It can never be told whether a request on it would be denied.
		return holds
	}
}

// connState is what the rules before the one that decides leave open.
type connState struct {
	// any is true where a rule could match, allow where such a rule allows.
	any, allow bool
}

// decide gives the connection's decision, d being what holds where none of the
// rules before it matches.
func (s *connState) decide(d Decision, ask *asked) ConnDecision {
	switch {
	case s.any && (s.allow || d.Verdict.Passes()):
		if !canCarryHTTP(ask.q.Protocol) {
			// What is not known now never will be.
			return ConnDecision{Decision: refused(ask.q, ruleless, NoRule)}
		}
		return ConnDecision{Action: InspectConn, Decision: Decision{
			Verdict: Allow, Mode: ask.p.WorkloadMode(ask.q.Workload), Timeouts: ask.p.timeouts, rule: ruleless, policy: ask.p,
		}}
	case !d.Verdict.Passes():
		return ConnDecision{Decision: d}
	case d.Handling == Inspect && ask.q.Protocol != TCP:
		return ConnDecision{Action: InspectConn, Decision: d}
	default:
		return ConnDecision{Action: TunnelConn, Decision: d}
	}
}

// DecideName says whether the workload may have this name resolved at all. It
// is asked before any upstream look-up: a question carries data out too. A name
// is listed by a rule that allows it on some port for some request; one that
// has cidrs and no hosts lists no name.
func (p *Policy) DecideName(workload, host string) Decision {
	q := Query{Workload: workload, Host: host}
	if p == nil {
		return refused(&q, ruleless, NoRule)
	}
	var ask asked
	p.ask(&ask, &q)
	var c cursor
	p.hosts.candidates(&c, host)
	for list := c.next(); list != nil; list = c.next() {
		for i := range list {
			r := &p.rules[list[i].rule]
			if !ask.workload(r.set) || len(r.hosts) == 0 && len(r.cidrs) > 0 {
				continue
			}
			narrow := len(r.cidrs) > 0 || len(r.ports) > 0 || r.needsRequest || r.protocols&anyTCP != anyTCP
			switch {
			case r.allow || !narrow:
				return p.decided(r, &ask)
			case r.observes(p, &ask):
				// Its refusals are recorded only, each where it happens.
				d := p.decided(r, &ask)
				d.Verdict, d.Reason = Allow, NoReason
				return d
			}
		}
	}
	d := p.fallback(&ask)
	if p.allowUnlisted && host != "" && !pattern.IsAddress(host) {
		d.Verdict, d.Reason = Allow, NoReason
	}
	return d
}
