package proxy

import (
	"context"
	"time"

	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/upstream"
)

// reach opens a connection for bytes that nobody looks at. Where the target is
// known by its name only because our resolver told it for the address, that
// address is dialled. If nobody answers there, a client without us would go on
// to the name's next address, but ours has been connected already: so we go on
// for it, with a decision for the name at any of its addresses. elsewhere says
// that it did. The route of the decision replaces r.
func (c *conn) reach(ctx context.Context, s *Settings, t *target, protocol policy.Protocol, d policy.Decision, r *route) (_ policy.Decision, _ *route, u *upstream.Conn, elsewhere bool, _ *failure) {
	u, fail := c.connectWithin(ctx, r)
	if fail == nil || !t.only || t.host == "" || address.IsSynthetic(t.addr) ||
		fail.reason != policy.UpstreamUnreachable && fail.reason != policy.UpstreamTimeout {
		return d, r, u, false, fail
	}
	named := *t
	named.only = false
	d2, r2, fail2 := c.work.decide(s, &named, protocol, nil, time.Now())
	if !d2.Verdict.Passes() || fail2 != nil {
		return d, nil, nil, false, fail
	}
	u, fail2 = c.connectWithin(ctx, r2)
	if fail2 != nil {
		fail2.attempts += fail.attempts
		return d2, r2, nil, true, fail2
	}
	return d2, r2, u, true, nil
}
