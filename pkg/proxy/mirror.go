package proxy

import (
	"context"
	"slices"
	"time"

	"sallyport/pkg/balance"
	"sallyport/pkg/http2"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// The protocols that we speak in TLS, as ALPN names them. both is what a client
// that offers either is taken to offer: servers go by their own order.
const (
	http11 = "http/1.1"
	h2     = "h2"
	both   = h2 + "," + http11
)

// settingsTime bounds the wait for the first SETTINGS of an upstream: it is
// the first thing that a server sends (RFC 9113 section 3.4).
const settingsTime = 5 * time.Second

// A mirrored is what an upstream has chosen of what a client offers.
type mirrored struct {
	// protocol is "" where it is not known.
	protocol string
	// settings are what it said of itself in HTTP/2.
	settings http2.PeerSettings
}

// httpOffer gives the protocols of HTTP among those that a client offers, in
// the form of upstream.Key.
func httpOffer(alpn []string) string {
	switch first, second := slices.Contains(alpn, h2), slices.Contains(alpn, http11); {
	case first && second:
		return both
	case first:
		return h2
	default:
		return http11
	}
}

// mirror finds out what the upstream of a hop would choose of offer, so that the
// client is given the same. It may open a connection, which then serves the
// first request; that is done only where some request could pass, to an address
// to which it could go, and nothing is asked on it.
func (c *conn) mirror(h *hop, offer string) (m mirrored) {
	if c.p.Audit.Healthy() != nil {
		return m
	}
	s, now := c.p.settings.Load(), time.Now()
	t := target{scheme: upstream.TLS, host: h.literal(), addr: h.addr, port: h.port, alpn: offer}
	if t.host == "" {
		return m
	}
	w := &c.work
	if w.astray(s, &t) != nil {
		return m
	}
	addrs, n := w.addresses(s, &t, now)
	if n != nil && (!n.allowed.Verdict.Passes() || n.err != nil) {
		return m
	}
	d, ok := s.Policy.Prospect(w.ask(&t, policy.HTTPS, addrs, nil))
	if !ok {
		return m
	}
	if n.waits(&d) {
		if addrs = w.resolve(n); n.err != nil {
			return m
		}
	}
	if d.Upstream != "" {
		return c.mirrorTarget(s, &t, d, now)
	}
	d, r, fail := w.routeTo(s, &t, d, addrs, now)
	if fail != nil || r == nil || d.Verdict != policy.Allow {
		return m
	}
	if m, fail = c.askProtocol(r); fail != nil {
		h.failed = &failedDial{host: r.host, at: time.Now(), failure: fail}
	}
	return m
}

// mirrorTries is how many targets are asked what they speak before a client is
// let in without an answer.
const mirrorTries = 3

// mirrorTarget is mirror where targets stand in for the host. The one that
// answers takes the first request.
func (c *conn) mirrorTarget(s *Settings, t *target, d policy.Decision, now time.Time) (m mirrored) {
	_, r, fail := c.work.balanced(s, t, d)
	if fail != nil {
		return m
	}
	u := r.balance
	var tried []*balance.Target
	for range min(mirrorTries, u.Len()) {
		lease, ok := u.Ask(u.Key(c.id.Name, nil), tried, now)
		if !ok {
			return m
		}
		tried = append(tried, lease.Target)
		judged, to, fail := c.work.toTarget(r, d, lease.Target, now)
		if fail == nil && judged.Verdict == policy.Allow {
			m, fail = c.askProtocol(to)
		}
		if fail == nil {
			lease.End()
			c.asked.Store(lease.Target)
			return m
		}
		result := balance.TCPFailure
		if fail.reason == policy.UpstreamTimeout {
			result = balance.Timeout
		}
		lease.Failed(result, fail.text)
		lease.End()
	}
	return m
}

// askProtocol finds out what is spoken on a route. The failure is that of
// connecting.
func (c *conn) askProtocol(r *route) (m mirrored, fail *failure) {
	if protocol, known := r.host.Spoke(); known && protocol != h2 {
		m.protocol = http11
		return m, nil
	}
	u := r.host.Idle(r.way, &c.leg, nil)
	if u == nil {
		if u, fail = c.connect(r); fail != nil {
			return m, fail
		}
	}
	m.protocol = http11
	if !r.agreed(u) {
		if c.ready != nil {
			c.ready.Close()
		}
		c.ready = u
		return m, nil
	}
	m.protocol = h2
	ctx, cancel := context.WithTimeout(c.context(), settingsTime)
	defer cancel()
	codec := http2CodecOf(c.p, u)
	settings, err := codec.Start(ctx)
	if err != nil {
		codec.Close()
		return m, nil
	}
	m.settings = settings
	u.Release()
	return m, nil
}

// A failedDial tells the first request of a hop what was found out for it.
type failedDial struct {
	host    *upstream.Host
	at      time.Time
	failure *failure
}

// agreed reports whether HTTP/2 is spoken on a connection of the route.
func (r *route) agreed(u *upstream.Conn) bool {
	if r.target.scheme == upstream.Clear {
		return r.target.alpn == h2
	}
	return u.Protocol() == h2
}

// multiplexes reports whether the upstream may be spoken to in HTTP/2.
func (r *route) multiplexes() bool { return r.target.alpn == h2 || r.target.alpn == both }

// speaksHTTP1 reports whether the upstream is known to have chosen otherwise.
func (r *route) speaksHTTP1() bool {
	protocol, known := r.host.Spoke()
	return known && protocol != h2
}
