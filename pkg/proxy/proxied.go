package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/upstream"
)

// Standins keep the addresses that stand for names which leave by an upstream
// proxy; *resolver.Resolver does. Their names come by Resolver.Name.
type Standins interface {
	// Hold says that a flow to addr begins, and reports whether that stands for a
	// name; then Release must follow.
	Hold(workload string, addr netip.Addr) bool
	Release(workload string, addr netip.Addr)
}

// hold keeps the address of a connection with the name that it stands for, for
// as long as the connection lives.
func (c *conn) hold() {
	c.held = c.p.Standins != nil && c.p.Standins.Hold(c.id.Name, c.flow.Dst.Addr())
}

func (c *conn) release() {
	if c.held {
		c.p.Standins.Release(c.id.Name, c.flow.Dst.Addr())
	}
}

// named reports whether a target is judged and reached by its name. Where that
// is only what our resolver told for the address (only), the address counts,
// but for one that stands for nothing but that name.
func (t *target) named() bool {
	return t.host != "" && (!t.only || address.IsSynthetic(t.addr))
}

// astray gives the failure of a target at an address that stands for no name of
// this workload, or that is taken for a name itself: there is nothing it could
// mean, and nothing routes it.
func (w *work) astray(s *Settings, t *target) *failure {
	if !s.Policy.Proxied() {
		return nil
	}
	if policy.IsAddress(t.host) {
		if addr, err := netip.ParseAddr(t.host); err == nil && address.IsSynthetic(addr) {
			return &failure{reason: policy.AddressDenied, text: fmt.Sprintf("%s only stands for a name that is not resolved here: ask for it by that name", addr)}
		}
	}
	if !t.addr.IsValid() || !address.IsSynthetic(t.addr) {
		return nil
	}
	if w.c.held && t.addr == w.c.flow.Dst.Addr() {
		// It is kept for this connection, which asks for no lock then.
		return nil
	}
	if _, ok := w.c.p.Resolver.Name(w.c.id.Name, t.addr); ok {
		return nil
	}
	return &failure{reason: policy.AddressDenied, text: fmt.Sprintf("%s stands for no name that this workload was told lately: resolve the name again", t.addr)}
}

// waits reports whether a decision cannot stand before the name is resolved,
// which a name that may leave by a proxy is not without need.
func (n *names) waits(d *policy.Decision) bool {
	return n != nil && n.deferred && (d.Unresolved || d.Verdict.Passes() && d.Proxy == nil && d.Upstream == "")
}

// resolve asks for the addresses of a name after all.
func (w *work) resolve(n *names) []netip.Addr {
	n.deferred = false
	n.addrs, n.err = w.c.p.Resolver.Lookup(w.c.context(), w.c.id.Name, n.host)
	return n.addrs
}

// decideConn judges a connection of which no request was seen.
func (w *work) decideConn(s *Settings, t *target, protocol policy.Protocol, now time.Time) (policy.ConnDecision, *names) {
	addrs, n := w.addresses(s, t, now)
	d := s.Policy.DecideConn(w.ask(t, protocol, addrs, nil))
	if d.Unresolved && n.waits(&d.Decision) {
		addrs = w.resolve(n)
		d = s.Policy.DecideConn(w.ask(t, protocol, addrs, nil))
	}
	return d, n
}

// serves reports whether a connection that was opened before goes where the route
// does. Of a direct one the address tells; that of a proxy is the same whatever
// it was asked for.
func (r *route) serves(u *upstream.Conn) bool {
	key := u.Key()
	return key.Proxy == r.proxy && (r.proxy == nil || key == r.host.Key())
}

// detour makes the route one by the upstream proxy of the decision: the target
// by its name, at the addresses of the proxy. It is the operator's, so it may be
// of any address class, but never ourselves.
func (w *work) detour(r *route, s *Settings, d *policy.Decision) {
	r.proxy = s.Proxies[d.Proxy]
	if r.proxy == nil {
		r.failed = &failure{reason: policy.UpstreamUnreachable, text: "the upstream proxy " + d.Proxy.URL() + " is not set up"}
		return
	}
	addrs, err := w.c.p.Resolver.Lookup(w.c.context(), "", r.proxy.Host())
	if err != nil {
		r.failed = &failure{reason: policy.UpstreamUnreachable, text: fmt.Sprintf("the upstream proxy %s: %s cannot be resolved: %v", r.proxy, r.proxy.Host(), err)}
		return
	}
	r.way = upstream.Route{}
	for _, a := range addrs {
		if !w.c.p.ours(a, r.proxy.Port()) && !address.IsSynthetic(a) {
			r.way.Addrs = append(r.way.Addrs, a)
		}
	}
	if len(r.way.Addrs) == 0 {
		r.failed = &failure{reason: policy.UpstreamUnreachable, text: fmt.Sprintf("the upstream proxy %s is sallyport itself", r.proxy)}
	}
}
