package policy

// Tunnelable reports whether a TLS connection that would be inspected may pass
// unseen instead, because its client does not accept our certificate
// (tls.on_pinned): whatever is spoken on it, one and the same rule allows it, and
// neither that rule nor any before it that could match needs to see a request.
// Else one alert sent on purpose would switch inspection off. The protocol of q
// and q.HTTP are not looked at.
func (p *Policy) Tunnelable(q *Query) bool {
	if p == nil {
		return false
	}
	of := *q
	// What offers HTTP need not speak it. A rule for https alone needs to see that.
	of.Protocol = HTTPS
	first, ok := p.unseen(&of)
	if !ok {
		return false
	}
	of.Protocol = TLS
	second, ok := p.unseen(&of)
	return ok && first == second
}

// unseen gives the rule by which a connection is let in, and whether it could be
// so without a look at any request.
func (p *Policy) unseen(q *Query) (*rule, bool) {
	d := p.DecideConn(q)
	if d.Action == Refuse || !d.Verdict.Passes() || d.Unresolved || d.before {
		return nil, false
	}
	return d.rule, d.rule != nil && !d.rule.needsInspection()
}
