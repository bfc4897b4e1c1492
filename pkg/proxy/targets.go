package proxy

import (
	"fmt"
	"strings"
	"time"

	"sallyport/pkg/balance"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// targetRoutes are the routes of one decision to the targets that stand in for a host.
type targetRoutes struct {
	settings *Settings
	index    int
	mode     policy.Mode
	scheme   upstream.Scheme
	alpn     string
	// routes are by the target's place, nil where it was not chosen yet.
	routes []*route
}

// balanced gives a route that leads nowhere itself: targets stand in for the
// host, and each try chooses one (toTarget).
func (w *work) balanced(s *Settings, t *target, d policy.Decision) (policy.Decision, *route, *failure) {
	u := s.Balance.Of(d.Index).Upstream
	if u == nil {
		return d, nil, &failure{reason: policy.NoHealthyTarget, text: "the upstream " + d.Upstream + " is not set up"}
	}
	r := &w.route
	if r.settings != s || r.balance != u || r.target != *t {
		*r = route{settings: s, target: *t, balance: u, text: u.Name}
	}
	return d, r, nil
}

// toTarget gives the route to one target. It is judged as any other: by the
// address classes and cidrs of the rule, and never to ourselves. The name is the
// target's own, which is also what TLS verifies.
func (w *work) toTarget(via *route, d policy.Decision, at *balance.Target, now time.Time) (policy.Decision, *route, *failure) {
	s := via.settings
	all := &w.targets
	if all.settings != s || all.index != d.Index || all.mode != d.Mode || all.scheme != via.target.scheme || all.alpn != via.target.alpn {
		*all = targetRoutes{
			settings: s, index: d.Index, mode: d.Mode, scheme: via.target.scheme, alpn: via.target.alpn,
			routes: make([]*route, via.balance.Len()),
		}
	}
	r := all.routes[at.Index()]
	if r == nil {
		r = new(route)
		all.routes[at.Index()] = r
	}
	t := target{scheme: all.scheme, host: at.Host, port: at.Port, alpn: all.alpn}
	d.Proxy = d.ProxyTo(at.Host, at.Port)
	if r.settings != s || now.Sub(r.at) >= freshTime {
		var known *balance.Addresses
		if d.Proxy == nil || policy.IsAddress(at.Host) {
			if known = at.Addresses(now, freshTime); known == nil {
				addrs, err := w.c.p.Resolver.Lookup(w.c.context(), "", at.Host)
				if err != nil {
					r.settings = nil
					fail := lookupFailure(at.Host, err)
					fail.text = "the target " + at.String() + ": " + fail.text
					return d, nil, fail
				}
				known = at.Found(addrs, now)
			}
		} else {
			known = &balance.Addresses{At: now}
		}
		w.newRoute(r, s, &t, &d, known.Addrs, known.At)
		r.authority = at.Authority(t.scheme == upstream.TLS)
	}
	judged, out, fail := w.finish(r, s, &t, d)
	if fail == nil && out == nil {
		// The operator chose the target, not the workload: another one may do.
		return d, nil, &failure{
			reason: policy.AddressDenied,
			text:   fmt.Sprintf("the target %s is not dialled: none of its addresses is of a class that the rule lets be dialled; list them in the rule's `private` or `cidrs`", at),
		}
	}
	return judged, out, fail
}

// noTarget is the failure where no target may be asked.
func noTarget(u *balance.Upstream) *failure {
	var b strings.Builder
	n := 0
	for t, why := range u.Unhealthy() {
		if n++; n > 3 {
			b.WriteString(", …")
			break
		}
		if n > 1 {
			b.WriteString(", ")
		}
		b.WriteString(t.String() + " (" + why + ")")
	}
	return &failure{reason: policy.NoHealthyTarget, text: "no target of the upstream " + u.Name + " is healthy: " + b.String()}
}
