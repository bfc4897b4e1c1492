package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sallyport/pkg/balance"
	"sallyport/pkg/exchange"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/upstream"
)

// freshTime is how long a connection goes by an answer of the resolver before
// it asks again. The resolver has its own memory; this only saves its lock.
const freshTime = 5 * time.Second

// work is what one goroutine of a connection reuses from one decision to the
// next.
type work struct {
	c       *conn
	query   policy.Query
	request policy.HTTPQuery
	fields  fields
	one     [1]netip.Addr

	// The last authority and what it is in canonical form.
	authority, host string
	port, given     uint16

	names   names
	route   route
	targets targetRoutes
	rule    *metrics.Rule
	ruleAt  string
	last    *upstream.Conn
}

// fields lets policy look at a request's header.
type fields struct{ header *exchange.Header }

// HeaderValue implements policy.HeaderFields.
func (f *fields) HeaderValue(name string, i int) (string, bool) {
	for k := range f.header.Len() {
		field := f.header.At(k)
		if !exchange.EqualFold(field.Name, name) {
			continue
		}
		if i == 0 {
			return field.Value, true
		}
		i--
	}
	return "", false
}

// Fields implements policy.HeaderFields.
func (f *fields) Fields(yield func(name, value string) bool) {
	for name, value := range f.header.All() {
		if !yield(name, value) {
			return
		}
	}
}

// names is what is known of one name.
type names struct {
	settings *Settings
	host     string
	at       time.Time
	allowed  policy.Decision // DecideName
	addrs    []netip.Addr
	err      error
	// deferred says that the name may leave by an upstream proxy: it is resolved
	// only when a decision needs its addresses.
	deferred bool
}

// A failure is why a permitted request or connection cannot be carried out.
type failure struct {
	reason policy.Reason
	text   string
	ip     netip.Addr
	// attempts counts the connections that were tried.
	attempts int
}

// lookup fills w.names for host, asking policy before anyone else: the
// question alone can carry data out.
func (w *work) lookup(s *Settings, host string, now time.Time) *names {
	n := &w.names
	if n.settings == s && n.host == host && n.err == nil && now.Sub(n.at) < freshTime {
		return n
	}
	*n = names{settings: s, host: host, at: now}
	if addr, err := netip.ParseAddr(host); err == nil {
		// An address names itself; there is nothing to resolve.
		n.allowed = policy.Decision{Verdict: policy.Allow}
		n.addrs = []netip.Addr{addr}
		return n
	}
	n.allowed = s.Policy.DecideName(w.c.id.Name, host)
	switch {
	case !n.allowed.Verdict.Passes():
	case n.allowed.Ways.Proxied():
		n.deferred = n.allowed.Ways.Resolved()
	default:
		n.addrs, n.err = w.c.p.Resolver.Lookup(w.c.context(), w.c.id.Name, host)
	}
	return n
}

// A target is where a request or connection wants to go.
type target struct {
	scheme upstream.Scheme
	// host is canonical; "" where only the address is known.
	host string
	// addr is the address that the workload dialled; invalid where it named
	// none.
	addr netip.Addr
	port uint16
	// only says that the name is what our resolver told for addr: no other
	// address may stand in for it.
	only bool
	// alpn is what the upstream is offered, in the form of upstream.Key; in
	// clear "h2" means prior knowledge.
	alpn string
}

// ask fills w.query for a target. Without HTTP request is nil.
func (w *work) ask(t *target, protocol policy.Protocol, addrs []netip.Addr, request *policy.HTTPQuery) *policy.Query {
	q := &w.query
	*q = policy.Query{Workload: w.c.id.Name, Host: t.host, Addrs: addrs, Port: t.port, Protocol: protocol, Who: &w.c.who, HTTP: request}
	if n := &w.names; t.named() && n.host == t.host {
		q.ByProxy = n.allowed.Ways.Proxied() && !n.allowed.Ways.Resolved()
	}
	return q
}

// addresses gives what a target may be judged by and dialled at.
func (w *work) addresses(s *Settings, t *target, now time.Time) (addrs []netip.Addr, n *names) {
	if !t.named() {
		w.one[0] = t.addr
		return w.one[:], nil
	}
	n = w.lookup(s, t.host, now)
	return n.addrs, n
}

// decide judges a target whose protocol is known for good, with its request if
// it has one, and finds the way to it. A decision that passes comes with a
// route or a failure.
func (w *work) decide(s *Settings, t *target, protocol policy.Protocol, request *policy.HTTPQuery, now time.Time) (policy.Decision, *route, *failure) {
	if fail := w.astray(s, t); fail != nil {
		d := w.c.ownDecision(fail.reason)
		d.Verdict = policy.Allow
		return d, nil, fail
	}
	addrs, n := w.addresses(s, t, now)
	d := s.Policy.Decide(w.ask(t, protocol, addrs, request))
	if n.waits(&d) {
		addrs = w.resolve(n)
		d = s.Policy.Decide(w.ask(t, protocol, addrs, request))
	}
	if !d.Verdict.Passes() {
		return d, nil, nil
	}
	if n != nil && !n.allowed.Verdict.Passes() {
		// Nothing was asked, so there is nowhere to go. A rule that matches by
		// address cannot be told from one that does not, and the name is what
		// was refused.
		return n.allowed, nil, nil
	}
	if d.Upstream != "" {
		return w.balanced(s, t, d)
	}
	if n != nil && n.err != nil && d.Proxy == nil {
		return d, nil, lookupFailure(t.host, n.err)
	}
	return w.routeTo(s, t, d, addrs, now)
}

func lookupFailure(host string, err error) *failure {
	reason := policy.UpstreamUnreachable
	return &failure{reason: reason, text: fmt.Sprintf("%s cannot be resolved: %v", host, err)}
}

// A route is the way of one decision, kept for the next request like it.
type route struct {
	settings *Settings
	// at is when its addresses were found.
	at      time.Time
	rule    string
	mode    policy.Mode
	verdict policy.Verdict
	target  target
	// refused is what the addresses made of the decision, if anything.
	refused policy.Reason
	way     upstream.Route
	host    *upstream.Host
	// client is what the upstream is shown if it asks for a certificate.
	client *upstream.ClientCertificate
	// proxy is by whom it goes, nil: directly. failed says why it cannot.
	proxy  *upstream.Proxy
	failed *failure
	// text is host:port for the audit.
	text string
	// balance is set where targets stand in for the host: the route leads nowhere
	// itself. That to a target has authority, what Host says there.
	balance   *balance.Upstream
	authority string
}

// routeTo applies the address classes and cidrs of the deciding rule, and
// never lets anyone reach ourselves.
func (w *work) routeTo(s *Settings, t *target, d policy.Decision, addrs []netip.Addr, now time.Time) (policy.Decision, *route, *failure) {
	r := &w.route
	named := t.named()
	fresh := r.settings == s && r.rule == d.Rule && r.mode == d.Mode && r.verdict == d.Verdict && r.target == *t
	if named {
		fresh = fresh && r.at.Equal(w.names.at)
	} else {
		fresh = fresh && now.Sub(r.at) < freshTime
	}
	if !fresh {
		at := now
		if named {
			at = w.names.at
		}
		w.newRoute(r, s, t, &d, addrs, at)
	}
	return w.finish(r, s, t, d)
}

// finish gives the decision that is made of d by what the route found out.
func (w *work) finish(r *route, s *Settings, t *target, d policy.Decision) (policy.Decision, *route, *failure) {
	if r.refused != policy.NoReason && d.Verdict == policy.Allow {
		// What observe mode let pass already keeps its first reason.
		d = d.Refuse(r.refused)
	}
	switch {
	case r.failed != nil && d.Verdict.Passes():
		return d, nil, r.failed
	case d.Certificate != nil && r.client == nil && t.scheme == upstream.TLS && d.Verdict.Passes():
		// Never without it: the upstream would take the workload for another.
		return d, nil, &failure{reason: policy.UpstreamTLS, text: "the certificate of upstream_tls is not loaded; reload"}
	case len(r.way.Addrs) == 0:
		// Loops are refused in every mode.
		d.Verdict, d.Reason = policy.Deny, policy.AddressDenied
		return d, nil, nil
	case !d.Verdict.Passes():
		return d, nil, nil
	}
	if r.host == nil || r.host.Gone() {
		key := w.c.key(t)
		key.Proxy, key.Client = r.proxy, r.client
		r.host = w.c.p.Upstream.Host(key)
	}
	r.way.Timeout = d.Timeouts.Connect
	return d, r, nil
}

func (w *work) newRoute(r *route, s *Settings, t *target, d *policy.Decision, addrs []netip.Addr, at time.Time) {
	*r = route{settings: s, at: at, rule: d.Rule, mode: d.Mode, verdict: d.Verdict, target: *t}
	r.way.Own = t.addr
	if d.Certificate != nil && t.scheme == upstream.TLS {
		r.client = s.Certificates[d.Certificate]
	}
	host := t.host
	if host == "" {
		host = t.addr.String()
	}
	r.text = joinHostPort(host, t.port)
	if d.Proxy != nil && t.host != "" && !policy.IsAddress(t.host) {
		w.detour(r, s, d)
		return
	}
	proxied := s.Policy.Proxied()
	var open []netip.Addr
	var elsewhere netip.Addr
	for _, a := range addrs {
		if w.c.p.ours(a, t.port) || proxied && address.IsSynthetic(a) {
			continue
		}
		if w.c.p.Own.Elsewhere(w.c.flow.Netns, a) {
			elsewhere = a
			continue
		}
		open = append(open, a)
		if d.Permits(a, w.c.p.Own.Host) {
			r.way.Addrs = append(r.way.Addrs, a)
		}
	}
	if len(r.way.Addrs) == 0 {
		r.refused = policy.AddressDenied
		if d.Mode == policy.Observe {
			r.way.Addrs = open
		}
	}
	switch {
	case len(open) == 0:
		r.way.Addrs = nil
		if elsewhere.IsValid() && d.Verdict.Passes() {
			// In every mode: from here it would be an address of the host.
			r.refused = policy.NoReason
			r.failed = &failure{reason: policy.AddressDenied, text: fmt.Sprintf(
				"%s is an address of the workload's own network namespace, which only a rule with cidrs and handling: direct reaches", elsewhere)}
		}
	case d.Proxy != nil && len(r.way.Addrs) > 0:
		// The workload gave an address, which was judged, and the proxy is asked
		// for that one.
		w.detour(r, s, d)
	}
}

// key says which upstream connections may serve the target.
func (c *conn) key(t *target) upstream.Key {
	k := upstream.Key{Workload: c.id.Name, Scheme: t.scheme, Host: t.host, Port: t.port, ALPN: t.alpn}
	if k.Host == "" {
		k.Host = t.addr.String()
	}
	if t.scheme == upstream.TLS {
		k.Name = k.Host
	}
	return k
}

// connect opens a connection for a route outside the pool.
func (c *conn) connect(r *route) (*upstream.Conn, *failure) { return c.connectWithin(c.context(), r) }

// connectWithin is connect until ctx ends.
func (c *conn) connectWithin(ctx context.Context, r *route) (*upstream.Conn, *failure) {
	u, err := r.host.Dial(ctx, r.way, &c.leg)
	c.countHandshake(r.target.scheme, err)
	if err != nil {
		return nil, dialFailure(err)
	}
	return u, nil
}

func dialFailure(err error) *failure {
	var e *upstream.Error
	if errors.As(err, &e) {
		return &failure{reason: e.Reason, text: e.Text, ip: e.Addr, attempts: e.Attempts}
	}
	return &failure{reason: policy.UpstreamUnreachable, text: err.Error()}
}

func (c *conn) countHandshake(scheme upstream.Scheme, err error) {
	if scheme != upstream.TLS {
		return
	}
	var e *upstream.Error
	switch {
	case err == nil:
		c.p.Metrics.Handshake(metrics.UpstreamSide, metrics.HandshakeOK)
	case !errors.As(err, &e) || e.Reason != policy.UpstreamTLS:
		// It never came to a handshake, or that timed out.
		if e != nil && e.Reason == policy.UpstreamTimeout {
			c.p.Metrics.Handshake(metrics.UpstreamSide, metrics.HandshakeFailed)
		}
	case e.Fault == upstream.Handshake || e.Fault == upstream.NotTLS:
		c.p.Metrics.Handshake(metrics.UpstreamSide, metrics.HandshakeFailed)
	default:
		c.p.Metrics.Handshake(metrics.UpstreamSide, metrics.HandshakeRejected)
	}
}

// ownDecision is a refusal that no rule made.
func (c *conn) ownDecision(reason policy.Reason) policy.Decision {
	s := c.p.settings.Load()
	return policy.Decision{Verdict: policy.Deny, Reason: reason, Mode: s.Policy.WorkloadMode(c.id.Name), Timeouts: s.Timeouts}
}
