package proxy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/sniff"
	"sallyport/pkg/upstream"
)

// patienceFor is how long a silent client may be a slow one. Then, where a rule
// lets what is neither HTTP nor TLS through to that address, the upstream is
// asked whether it speaks first. On the ports of HTTP hardly any server does,
// and clients that have to compute their hello first are common; elsewhere a
// greeting is not held up noticeably.
func patienceFor(port uint16) time.Duration {
	switch port {
	case 80, 443:
		return 150 * time.Millisecond
	default:
		return 20 * time.Millisecond
	}
}

// handle finds out what is spoken on a hop and does what was decided for it.
func (c *conn) handle(h *hop) {
	f, err := c.firstBytes(h)
	if err != nil {
		// The client is gone before it said anything that could be judged.
		c.abandon()
		return
	}
	h.conn = f.conn
	switch f.result.Protocol {
	case sniff.TLS:
		if h.secure {
			// TLS within our TLS is opaque data of the outer one.
			c.opaque(h, &f)
			return
		}
		c.handleTLS(h, &f)
	case sniff.HTTP1:
		f.drop()
		c.openFlow(h, policy.Inspect, nil)
		c.http = h
	case sniff.HTTP2:
		// Prior knowledge (RFC 9113 section 3.3).
		f.drop()
		c.openFlow(h, policy.Inspect, nil)
		h.http2, h.offer = true, h2
		c.http = h
	default:
		c.opaque(h, &f)
	}
}

// first is what the first bytes of a hop told.
type first struct {
	conn   *sniff.Conn
	result sniff.Result
	// ready is a connection to the target that is open already, early what it
	// said before the client spoke; elsewhere says that it is not at the address
	// that the workload dialled.
	ready     *upstream.Conn
	early     []byte
	elsewhere bool
}

func (f *first) drop() {
	if f.ready != nil {
		f.ready.Close()
		f.ready = nil
	}
}

// plain is the protocol of a hop on which no HTTP is spoken.
func (h *hop) plain() policy.Protocol {
	if h.secure {
		return policy.TLS
	}
	return policy.TCP
}

// plainTarget is where the bytes of a hop go as they are.
func (c *conn) plainTarget(h *hop) target {
	t := target{scheme: upstream.Clear, host: c.host(h), addr: h.addr, port: h.port}
	t.only = h.name == "" && h.addr.IsValid()
	if h.secure {
		t.scheme, t.alpn = upstream.TLS, h.alpn
		if t.host == "" || t.only {
			t.host, t.only = h.literal(), false
		}
	}
	return t
}

// firstBytes sniffs. Where the client stays silent and its connection is
// allowed whatever it will say, it opens the upstream and waits for whoever
// speaks first: servers of SSH, SMTP or MySQL do. Nothing of the client is
// forwarded before it was sniffed, so waiting gains nobody another judgement.
func (c *conn) firstBytes(h *hop) (first, error) {
	p := c.p
	s := p.settings.Load()
	limit := s.Timeouts.Sniff
	wait := min(patienceFor(h.port), limit)
	t := c.plainTarget(h)
	unseen := !h.secure && len(h.prefix) == 0 && c.decidedUnseen(s, &t)
	if unseen {
		wait = time.Millisecond
	}
	begin := time.Now()
	sc, result, err := p.sniffer.Sniff(h.conn, h.prefix, wait)
	switch {
	case err != nil:
		return first{}, err
	case result.Silent:
	case result.Closed || time.Since(begin) < wait:
		return first{conn: sc, result: result}, nil
	default:
		// It may be that the time ended within something. Looking again at what
		// was complete gives the same at once.
		rest := append([]byte(nil), sc.Peeked()...)
		sc, result, err = p.sniffer.Sniff(h.conn, rest, max(limit-wait, time.Millisecond))
		return first{conn: sc, result: result}, err
	}
	if p.Audit.Healthy() == nil {
		d, r, _ := c.work.decide(s, &t, h.plain(), nil, time.Now())
		if d.Verdict.Passes() && r != nil {
			f, err := c.race(h, begin.Add(limit), func(ctx context.Context) (*upstream.Conn, bool) {
				_, _, u, elsewhere, _ := c.reach(ctx, s, &t, h.plain(), d, r)
				return u, elsewhere
			})
			if err == nil && !unseen && f.result.Silent && greetsHTTP(f.early) {
				return c.afterGreeting(&f, max(time.Until(begin.Add(limit)), time.Millisecond))
			}
			return f, err
		}
	}
	if limit > wait {
		sc, result, err = p.sniffer.Sniff(h.conn, nil, limit-wait)
	}
	return first{conn: sc, result: result}, err
}

// decidedUnseen reports whether a rule tunnels the connection whatever is
// spoken on it.
func (c *conn) decidedUnseen(s *Settings, t *target) bool {
	if !t.addr.IsValid() {
		return false
	}
	if address.IsSynthetic(t.addr) {
		// Not an address of the target, if it means anything at all.
		return s.Policy.DecideConn(c.work.ask(t, policy.AnyTCP, nil, nil)).Action == policy.TunnelConn
	}
	c.work.one[0] = t.addr
	return s.Policy.DecideConn(c.work.ask(t, policy.AnyTCP, c.work.one[:], nil)).Action == policy.TunnelConn
}

var errStopped = errors.New("the connection was stopped")

// handleTLS decides a connection that begins with a ClientHello.
func (c *conn) handleTLS(h *hop, f *first) {
	hello := &f.result.Hello
	if err := f.result.HelloErr; err != nil {
		f.drop()
		c.alert(h, alertOf(err))
		c.refuseFlow(c.ownDecision(policy.MalformedRequest), err.Error())
		return
	}
	sni := hello.ServerName
	if hello.ServerAddr.IsValid() {
		sni = hello.ServerAddr.Unmap().String()
	}
	c.ev.TLS.SNI, c.ev.TLS.ALPN = sni, strings.Join(hello.ALPN, ",")
	if sni != "" {
		name, err := policy.CanonicalHost(sni)
		if err != nil {
			f.drop()
			c.alert(h, alertUnrecognizedName)
			c.refuseFlow(c.ownDecision(policy.MalformedRequest), "server name of the ClientHello: "+err.Error())
			return
		}
		if h.name != "" && name != h.name {
			// CONNECT was judged by another name than what is asked for inside.
			f.drop()
			c.alert(h, alertAccessDenied)
			c.refuseFlow(c.ownDecision(policy.NameMismatch), "the server name "+name+" is not the host "+h.name+" of CONNECT")
			return
		}
		h.name = name
	}
	protocol := policy.HTTPS
	if !offersHTTP(hello.ALPN) {
		// Only what the client says: many servers speak HTTP whatever that is.
		protocol = policy.TLS
	}
	s := c.p.settings.Load()
	t := target{scheme: upstream.Clear, host: c.host(h), addr: h.addr, port: h.port, only: sni == "" && h.name == ""}
	c.ev.Dst.Host = t.host
	now := time.Now()
	d, n := c.work.decideConn(s, &t, protocol, now)
	if n != nil && !n.allowed.Verdict.Passes() && d.Verdict.Passes() {
		// A rule by address could match, but a name that may not be resolved
		// has none.
		d.Action, d.Decision = policy.Refuse, n.allowed
	}
	if d.Action == policy.TunnelConn || protocol == policy.TLS && !d.Verdict.Passes() ||
		d.Action == policy.InspectConn && c.passesUnseen(s, h, now) {
		c.tunnel(h, f, &t, protocol, alertAccessDenied)
		return
	}
	// What is refused is answered too: the workload learns why (403) instead of
	// that the network is broken. No rule lets its requests through.
	f.drop()
	var refused *policy.Decision
	if d.Action == policy.Refuse && !d.Verdict.Passes() {
		refused = &d.Decision
	}
	c.openFlow(h, policy.Inspect, refused)
	c.inspect(h, hello, refused != nil)
}

// opaque decides bytes that nothing is known about.
func (c *conn) opaque(h *hop, f *first) {
	t := c.plainTarget(h)
	if c.ev.Dst.Host == "" {
		c.ev.Dst.Host = t.host
	}
	c.tunnel(h, f, &t, h.plain(), 0)
}

func offersHTTP(alpn []string) bool {
	return len(alpn) == 0 || slices.ContainsFunc(alpn, func(p string) bool {
		return p == "h2" || strings.HasPrefix(p, "http/")
	})
}

func joinHostPort(host string, port uint16) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(addr, port).String()
	}
	return host + ":" + strconv.Itoa(int(port))
}
