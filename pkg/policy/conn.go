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
	var ask asked
	p.ask(&ask, q, nil)
	// Each rule that could match counts, whatever its methods.
	ask.methods = noRequest | anyMethod
	var c cursor
	mayBeNamed := q.Host == "" && canCarryHTTP(q.Protocol)
	if mayBeNamed {
		// A request may bring the name.
		c.add(p.all)
	} else {
		p.hosts.candidates(&c, q.Host)
	}
	var before connState
	for list := c.next(); list != nil; list = c.next() {
		for i := ask.scan(list, 0); i < len(list); i = ask.scan(list, i+1) {
			r := &p.rules[list[i].rule]
			switch p.checkUnseen(r, &ask, mayBeNamed) {
			case holds:
				return p.conn(before, p.decided(r, &ask), &ask)
			case unknown:
				before.any = true
				if r.allow || r.observes(p, &ask) {
					// Whatever follows, its requests must be seen.
					before.allow = true
					return p.conn(before, Decision{}, &ask)
				}
			}
		}
	}
	return p.conn(before, p.fallback(&ask), &ask)
}

// observes reports whether a refusal of the rule would be recorded only.
func (r *rule) observes(p *Policy, ask *asked) bool {
	return p.modeOf(r, ask.workload) == Observe
}

// canCarryHTTP reports whether a request may yet be seen on the connection.
func canCarryHTTP(p Protocol) bool { return p != TCP && p != UDP }

// checkUnseen compares a rule with a connection whose requests are not seen yet.
func (p *Policy) checkUnseen(r *rule, ask *asked, mayBeNamed bool) outcome {
	out, _ := p.checkConn(r, ask)
	if out == holds && r.needsRequest || out != fails && mayBeNamed && len(r.hosts) > 0 {
		out = unknown
	}
	switch {
	case out != unknown || canCarryHTTP(ask.protocol):
		return out
	case r.allow:
		return fails
	default:
		// What is not known now never will be: it can never be told whether
		// the rule denies what is on the connection.
		return holds
	}
}

// connState is what the rules before the one that decides leave open: any is
// true where one could match, allow where such a one allows.
type connState struct{ any, allow bool }

// conn gives a connection's decision, d being what holds where none of the
// rules before it matches.
func (p *Policy) conn(before connState, d Decision, ask *asked) ConnDecision {
	switch {
	case before.allow || before.any && d.Verdict.Passes():
		return ConnDecision{Action: InspectConn, Decision: Decision{
			Verdict: Allow, Mode: p.WorkloadMode(ask.workload), Timeouts: p.timeouts, Unresolved: ask.unresolved, rule: ruleless, policy: p,
		}, before: true}
	case !d.Verdict.Passes():
		return ConnDecision{Decision: d, before: before.any}
	case d.Handling == Inspect && ask.protocol != TCP:
		return ConnDecision{Action: InspectConn, Decision: d, before: before.any}
	default:
		return ConnDecision{Action: TunnelConn, Decision: d, before: before.any}
	}
}

// Prospect gives the decision of the first rule by which some request on an
// inspected connection could pass, for what must be known of the upstream before
// a request is seen: which of its addresses may be dialled, and how. false
// means that no request can pass. q.HTTP is not looked at.
func (p *Policy) Prospect(q *Query) (Decision, bool) {
	if p == nil {
		return Decision{}, false
	}
	var ask asked
	p.ask(&ask, q, nil)
	ask.methods = noRequest | anyMethod
	var c cursor
	p.hosts.candidates(&c, q.Host)
	for list := c.next(); list != nil; list = c.next() {
		for i := ask.scan(list, 0); i < len(list); i = ask.scan(list, i+1) {
			r := &p.rules[list[i].rule]
			out := p.checkUnseen(r, &ask, false)
			switch {
			case out == fails:
			case r.allow || r.observes(p, &ask):
				d := p.decided(r, &ask)
				d.Verdict, d.Reason = Allow, NoReason
				return d, true
			case out == holds:
				return Decision{}, false
			}
		}
	}
	d := p.fallback(&ask)
	return d, d.Verdict.Passes()
}

// DecideName says whether the workload may have this name resolved at all. It
// is asked before any upstream look-up: a question carries data out too. A name
// is listed by a rule that allows it on some port for some request; one that
// has cidrs and no hosts lists no name. The names of upstream proxies are listed
// by being such. The decision tells the ways by which connections to the name may
// leave.
func (p *Policy) DecideName(workload, host string) Decision {
	q := Query{Workload: workload, Host: host}
	if p == nil {
		return refused(&q, ruleless, NoRule)
	}
	var ask asked
	p.ask(&ask, &q, nil)
	listed, decided := Decision{}, false
	// first keeps the decision of the first rule that lists the name; where there
	// are proxies the rules after it may know other ways.
	first := func(d Decision, ways Ways) {
		if !decided {
			listed, decided = d, true
		}
		listed.Ways |= ways
	}
	var c cursor
	p.hosts.candidates(&c, host)
	for list := c.next(); list != nil; list = c.next() {
		for i := range list {
			r := &p.rules[list[i].rule]
			if !ask.inSet(r.set) || len(r.hosts) == 0 && len(r.cidrs) > 0 {
				continue
			}
			narrow := len(r.cidrs) > 0 || len(r.ports) > 0 || r.needsRequest || r.protocols&anyTCP != anyTCP
			switch {
			case r.allow && r.upstream != "":
				first(p.decided(r, &ask), UpstreamWay)
			case r.allow:
				first(p.decided(r, &ask), r.detour.ways(host))
			case !narrow && !r.observes(p, &ask):
				first(p.decided(r, &ask), 0)
			case !narrow:
				first(p.decided(r, &ask), p.detour.ways(host))
			case r.observes(p, &ask):
				// Its refusals are recorded only, each where it happens.
				d := p.decided(r, &ask)
				d.Verdict, d.Reason = Allow, NoReason
				first(d, p.detour.ways(host))
			}
			if decided && (!p.proxied || !narrow) {
				return listed
			}
		}
	}
	d := p.fallback(&ask)
	if decided {
		if d.Verdict.Passes() {
			listed.Ways |= p.detour.ways(host)
		}
		return listed
	}
	d.Ways = p.detour.ways(host)
	if p.proxyNames[host] && !d.Verdict.Passes() {
		// Programs whose variables name the proxy look it up. What they then ask of
		// it is judged by its target, and the proxy is not contacted for them.
		d.Verdict, d.Reason, d.Ways = Allow, NoReason, DirectWay
	}
	if p.allowUnlisted && host != "" && !pattern.IsAddress(host) {
		d.Verdict, d.Reason = Allow, NoReason
	}
	return d
}
