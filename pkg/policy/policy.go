package policy

import (
	"sallyport/pkg/config"
)

// A Policy answers questions about one configuration. It is immutable and may
// be used by any number of goroutines. A nil or zero Policy denies everything.
type Policy struct {
	rules []rule
	sets  []workloadSet
	hosts hostIndex
	// all are the candidates of every rule, in order.
	all       []candidate
	workloads []workloadMode
	mode      Mode
	// open is true for default: allow.
	open          bool
	allowUnlisted bool
	timeouts      config.Timeouts
	// bindingDefaults is true where rules take over stages by which nothing but
	// HTTP may pass.
	bindingDefaults bool
	// proxied is true where there is any upstream proxy, or a rule with targets;
	// detour is the file's, proxyNames are those of all.
	proxied    bool
	detour     *detour
	proxyNames map[string]bool
}

// Decide judges one exchange, or a connection whose protocol is known for good
// and carries no HTTP. The first rule whose keys all hold decides.
//
// Of several addresses a deny rule with cidrs matches where any lies in them,
// an allow rule where one does (Permits then tells which may be dialled). Where
// it cannot be told whether a rule matches, a deny rule does and an allow rule
// does not: no address is known, or a rule that looks at requests meets a
// connection that shows none and is not limited to http or https.
// Decide does not allocate, except for a path that needs normalising.
func (p *Policy) Decide(q *Query) Decision {
	if p == nil {
		return refused(q, ruleless, NoRule)
	}
	var ask asked
	p.ask(&ask, q, q.HTTP)
	var c cursor
	p.hosts.candidates(&c, q.Host)
	for list := c.next(); list != nil; list = c.next() {
		for i := ask.scan(list, 0); i < len(list); i = ask.scan(list, i+1) {
			r := &p.rules[list[i].rule]
			switch outcome, _ := p.check(r, &ask); outcome {
			case holds:
				return p.decided(r, &ask)
			case ambiguous:
				return p.ambiguous(r, &ask)
			case broken:
				return p.broken(r, &ask)
			case unknown:
				if !r.allow {
					return p.decided(r, &ask)
				}
			}
		}
	}
	return p.fallback(&ask)
}

// decided gives the decision of a rule that matches.
func (p *Policy) decided(r *rule, ask *asked) Decision {
	d := p.decisionOf(r, ask)
	if r.allow {
		d.Verdict = Allow
	} else {
		d = d.Refuse(RuleDenied)
	}
	return protocolDenied(d, ask.protocol)
}

// ambiguous gives the refusal of a path that a rule with paths cannot judge.
func (p *Policy) ambiguous(r *rule, ask *asked) Decision {
	d := p.decisionOf(r, ask)
	d.why = ask.path.Ambiguous()
	return d.Refuse(AmbiguousPath)
}

// broken gives the refusal of a rule whose condition gives no answer.
func (p *Policy) broken(r *rule, ask *asked) Decision {
	d := p.decisionOf(r, ask)
	d.why = ask.fault
	return d.Refuse(RuleDenied)
}

// decisionOf gives what holds of a rule's decision, whatever its verdict will be:
// what observe mode lets pass goes the rule's way too.
func (p *Policy) decisionOf(r *rule, ask *asked) Decision {
	d := Decision{
		Rule: r.name, Index: r.index, Mode: p.modeOf(r, ask.workload), Handling: r.handling,
		Path: ask.forward(), Timeouts: r.timeouts, Upstream: r.upstream, Certificate: r.certificate, Unresolved: ask.unresolved, rule: r, policy: p,
	}
	if r.upstream == "" {
		d.Proxy = r.detour.by(ask)
	}
	if !r.allow {
		d.Handling = Inspect
	}
	return d
}

// fallback gives the decision where no rule matches.
func (p *Policy) fallback(ask *asked) Decision {
	d := Decision{Mode: p.WorkloadMode(ask.workload), Path: ask.forward(), Timeouts: p.timeouts, Proxy: p.detour.by(ask), Unresolved: ask.unresolved, rule: ruleless, policy: p}
	if p.open {
		d.Verdict = Allow
	} else {
		d = d.Refuse(NoRule)
	}
	return protocolDenied(d, ask.protocol)
}

// protocolDenied refuses UDP in every mode where no rule hands it to the
// kernel: the proxy has no way to carry it.
func protocolDenied(d Decision, protocol Protocol) Decision {
	if protocol != UDP || d.Verdict == Allow && d.Handling == Direct {
		return d
	}
	if d.Reason == NoReason || d.Verdict == WouldDeny {
		d.Reason = ProtocolDenied
	}
	d.Verdict = Deny
	return d
}

// refused is a refusal without a policy.
func refused(q *Query, r *rule, reason Reason) Decision {
	d := Decision{Reason: reason, rule: r}
	if q.HTTP != nil {
		d.Path = q.HTTP.Path
	}
	return d
}

// modeOf narrows the mode: rule, workload, file.
func (p *Policy) modeOf(r *rule, workload string) Mode {
	if r.hasMode {
		return r.mode
	}
	return p.WorkloadMode(workload)
}

// WorkloadMode gives the mode of a workload: its entry's, else the file's. Of
// several entries that can give this name the strictest counts.
func (p *Policy) WorkloadMode(workload string) Mode {
	if p == nil {
		return Enforce
	}
	mode, found := p.mode, false
	for i := range p.workloads {
		w := &p.workloads[i]
		if !w.name.Match(workload) {
			continue
		}
		if !found || w.mode == Enforce {
			mode, found = w.mode, true
		}
	}
	return mode
}
