package proxy

import (
	"net/netip"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// connect judges CONNECT as a connection to its target, answers it
// itself, and has what follows sniffed anew: the proxy that the workload named
// is never contacted.
func (k *call) connect(s *Settings, t *target, now time.Time) after {
	c, req, resp := k.c, &k.x.Request, &k.x.Response
	if k.h.depth+1 > c.p.Limits.Nesting {
		k.refuse(c.ownDecision(policy.ProtocolDenied), "CONNECT within CONNECT is nested too deep")
		return nil
	}
	inner := &hop{port: t.port, depth: k.h.depth + 1}
	if addr, err := netip.ParseAddr(t.host); err == nil {
		inner.addr = addr
		t.addr = addr
		if name := c.host(inner); name != "" {
			// An address that our resolver told for a name; the name is what
			// will be asked for inside. Any other address stands for itself.
			t.host, t.only = name, true
		}
	} else {
		inner.name = t.host
	}
	if fail := k.work.astray(s, t); fail != nil {
		k.refuse(c.ownDecision(fail.reason), fail.text)
		return nil
	}
	d, n := k.work.decideConn(s, t, policy.AnyTCP, now)
	switch {
	case inner.addr.IsValid() && c.p.ours(inner.addr, t.port):
		k.refuse(c.ownDecision(policy.AddressDenied), "the target is sallyport itself")
		return nil
	case d.Action == policy.Refuse && !d.Verdict.Passes():
		k.refuse(d.Decision, "")
		return nil
	case n != nil && !n.allowed.Verdict.Passes():
		k.refuse(n.allowed, "")
		return nil
	case n != nil && n.err != nil && !n.allowed.Ways.Proxied():
		k.unreachable(d.Decision, lookupFailure(t.host, n.err))
		return nil
	}
	resp.Reset()
	resp.Version, resp.Status, resp.Phrase, resp.Local = exchange.HTTP11, 200, "Connection established", true
	_, err := k.http1.WriteResponse(req, resp)
	k.ev.HTTP.Status = 200
	k.end(d.Decision, cut(err, nil))
	if err != nil {
		k.http1.CloseAfter()
		return nil
	}
	inner.conn, inner.prefix = k.http1.Detach()
	return func(*hop) {
		c.enter(starting, time.Now())
		c.clearTarget(inner)
		c.handle(inner)
	}
}

// clearTarget makes the events of what is inside a CONNECT tell of its target.
func (c *conn) clearTarget(h *hop) {
	c.ev.Dst.IP, c.ev.Dst.Port, c.ev.Dst.Host = h.addr, h.port, h.name
	c.ev.TLS.SNI, c.ev.TLS.ALPN, c.ev.TLS.Version, c.ev.TLS.UpstreamVersion = "", "", "", ""
	c.ev.Upstream.Target, c.ev.Upstream.IP, c.ev.Upstream.Attempts = "", netip.Addr{}, 0
}
