package proxy

import (
	"errors"
	"net/http"
	"net/netip"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/http1"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// A client is the workload's side of one exchange, whatever the codec.
type client interface {
	// WriteInformational sends an interim response on.
	WriteInformational(*exchange.Request, *exchange.Response) error
	// WriteResponse writes the response to its end and gives the bytes of
	// content. After an error the workload has nothing that looks whole.
	WriteResponse(*exchange.Request, *exchange.Response) (int64, error)
	// CloseAfter makes the exchange the last one of its connection, as far as
	// the protocol knows that.
	CloseAfter()
}

// A call is one exchange on its way: it judges a request, carries it, and
// records what became of it. One goroutine works on it.
type call struct {
	c      *conn
	h      *hop
	client client
	// http1 is client where the connection can become something else.
	http1 *http1.ServerConn
	x     *exchange.Exchange
	ev    *audit.Event
	work  *work
	// stream is what HTTP/2 adds: the exchanges of one connection run side by
	// side and end one by one. nil in HTTP/1.
	stream *stream
	car    carrier
	// stages are those of the rule, from when the request was let pass until the
	// exchange ends; ctx is theirs.
	stages *exchange.Pipeline
	ctx    *pause
	tries  tries
	// interim passes a 1xx response on. It is made once, so that an exchange
	// does not cost a closure.
	interim func(*exchange.Response) error
}

func (k *call) writeInterim(resp *exchange.Response) error {
	if !k.stages.Interim(k.x, resp) {
		return nil
	}
	return k.client.WriteInformational(&k.x.Request, resp)
}

// enter begins a phase of the connection; false means that it was stopped.
func (k *call) enter(phase uint32, now time.Time) bool {
	if k.stream != nil {
		return k.c.phase.Load() != stopped && !k.stream.Cancelled()
	}
	return k.c.enter(phase, now)
}

// use notes what carries the exchange, nil for nothing. Between two calls it
// may be interrupted from outside.
func (k *call) use(u inUse) {
	if k.stream != nil {
		k.stream.use(u)
		return
	}
	k.c.use(u)
}

// after is what becomes of a connection on which HTTP has ended.
type after func(*hop)

// run judges a request that was read whole and does what was decided. Where
// the connection becomes something else it gives what; the codec is detached
// then.
func (k *call) run(now time.Time) after {
	c, req := k.c, &k.x.Request
	if c.p.draining.Load() {
		k.client.CloseAfter()
	}
	s := c.p.settings.Load()
	if err := c.p.Audit.Healthy(); err != nil {
		k.refuse(c.ownDecision(policy.AuditUnavailable), "no request is let through while the audit cannot be written")
		return nil
	}
	t, d, text := k.target()
	if d != nil {
		k.refuse(*d, text)
		return nil
	}
	if req.Form == exchange.AuthorityForm {
		if k.http1 == nil {
			k.refuse(c.ownDecision(policy.ProtocolDenied), "CONNECT is answered on HTTP/1.1 only")
			return nil
		}
		return k.connect(s, &t, now)
	}
	method := req.Method
	if k.stream != nil && req.Upgrade != "" {
		if text := k.stream.refuseExtended(req); text != "" {
			k.refuse(c.ownDecision(policy.ProtocolDenied), text)
			return nil
		}
		// It takes the place of the GET that opens a WebSocket in HTTP/1.1 (RFC
		// 8441 section 5), and is judged as that.
		method = http.MethodGet
	}
	w := k.work
	w.fields.header = &req.Header
	w.request = policy.HTTPQuery{Method: method, Path: req.Path, RawQuery: req.Query, Header: &w.fields}
	protocol := policy.HTTP
	if t.scheme == upstream.TLS {
		protocol = policy.HTTPS
	}
	decision, r, fail := w.decide(s, &t, protocol, &w.request, now)
	k.ev.Rule, k.ev.Mode = decision.Rule, decision.Mode.String()
	if !decision.Verdict.Passes() {
		k.refuse(decision, "")
		return nil
	}
	if decision.Path != "" {
		req.Path = decision.Path
	}
	switch {
	case !k.process(s, &t, &decision, r, now):
		return nil
	case fail != nil:
		k.unreachable(decision, fail)
		return nil
	}
	return k.forward(decision, r)
}

// target finds where a request wants to go and whether it agrees with the name
// of its connection. A decision is a refusal.
func (k *call) target() (t target, refused *policy.Decision, text string) {
	c, h, req := k.c, k.h, &k.x.Request
	t = target{scheme: upstream.Clear, addr: h.addr, port: h.port, alpn: h.offer}
	standard := uint16(80)
	switch {
	case req.Form == exchange.AbsoluteForm:
		// The address of the proxy that the workload named means nothing.
		t.addr, t.alpn = netip.Addr{}, ""
		if req.Scheme == "https" {
			t.scheme, standard = upstream.TLS, 443
		}
	case req.Form == exchange.AuthorityForm:
		t.addr, standard = netip.Addr{}, 0
	case h.secure:
		t.scheme, standard = upstream.TLS, 443
	}
	own := "http"
	if t.scheme == upstream.TLS {
		own = "https"
		if t.alpn == "" {
			t.alpn = http11
		}
	}
	switch {
	case req.Form == exchange.AuthorityForm:
	case req.Scheme == "":
		req.Scheme = own
	case req.Scheme != own:
		// RFC 9113 section 8.3.1 lets a scheme other than the connection's own
		// through to servers, which differ in what they make of it.
		d := c.ownDecision(policy.MalformedRequest)
		return t, &d, "the request's scheme is not that of its connection"
	}
	k.ev.HTTP.Scheme = req.Scheme
	if req.Authority == "" {
		return k.unnamedTarget(t)
	}
	w := k.work
	if w.authority != req.Authority || w.given != standard {
		host, port, err := policy.CanonicalAuthority(req.Authority, standard)
		if err != nil {
			d := c.ownDecision(policy.MalformedRequest)
			return t, &d, "the host of the request: " + err.Error()
		}
		w.authority, w.given, w.host, w.port = req.Authority, standard, host, port
	}
	t.host = w.host
	k.ev.HTTP.Host, k.ev.Dst.Host = t.host, t.host
	switch {
	case req.Form == exchange.AbsoluteForm, req.Form == exchange.AuthorityForm:
		t.port = w.port
		k.ev.Dst.IP, k.ev.Dst.Port = netip.Addr{}, t.port
		if t.port == 0 {
			d := c.ownDecision(policy.MalformedRequest)
			return t, &d, "the target of the request has no port"
		}
	case h.name != "" && h.name != t.host:
		d := c.ownDecision(policy.NameMismatch)
		return t, &d, "the request is for " + t.host + ", but the connection was made for " + h.name
	}
	return t, nil, ""
}

// unnamedTarget is that of HTTP/1.0 without Host: what the connection itself
// told.
func (k *call) unnamedTarget(t target) (target, *policy.Decision, string) {
	c, h := k.c, k.h
	t.host = c.host(h)
	t.only = h.name == "" && t.host != ""
	if t.host == "" {
		t.host = h.literal()
	}
	if t.host == "" {
		d := c.ownDecision(policy.MalformedRequest)
		return t, &d, "the request names no host"
	}
	if t.only && t.scheme == upstream.TLS {
		t.only = false
	}
	k.x.Request.Authority = t.host
	k.ev.HTTP.Host, k.ev.Dst.Host = t.host, t.host
	return t, nil, ""
}

// switchingProtocols is the status after which a connection speaks another
// protocol (RFC 9110 section 15.2.2).
const switchingProtocols = 101

// idempotent methods may be sent again (RFC 9110 section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	default:
		return false
	}
}

// forward sends the request on and the response back.
func (k *call) forward(d policy.Decision, r *route) after {
	c, req, resp := k.c, &k.x.Request, &k.x.Response
	begin := time.Now()
	k.quieten(d.Timeouts.StreamIdle)
	if !k.enter(running, begin) {
		k.client.CloseAfter()
		k.end(d, "the exchange was stopped")
		return nil
	}
	if k.interim == nil {
		k.interim = k.writeInterim
	}
	opts := exchange.Options{HeaderTimeout: d.Timeouts.ResponseHeader, Informational: k.interim}
	k.ev.Upstream.Target, k.ev.Upstream.Attempts = r.text, 0
	var ws *webSocketStream
	if k.stream != nil && req.Upgrade != "" {
		ws = k.follow()
	}
	defer k.tries.dropBody()
	if !k.send(&d, r, opts, ws != nil, begin) {
		k.giveLease()
		return nil
	}
	car := &k.car
	k.ev.TLS.UpstreamVersion = tlsVersion(car.u.TLSVersion())
	if !k.respond(&d) {
		k.giveLease()
		return nil
	}
	k.ev.HTTP.Status = resp.Status
	if resp.Status == switchingProtocols {
		lease := k.tries.takeLease()
		next := k.upgrade(car, d)
		if next == nil {
			lease.End()
			return nil
		}
		return func(h *hop) {
			defer lease.End()
			next(h)
		}
	}
	defer k.giveLease()
	if c.p.draining.Load() {
		k.client.CloseAfter()
	}
	if ws != nil && resp.Status/100 == 2 {
		ws.opened(k, d)
	}
	k.endEvents(resp)
	sent, werr := k.client.WriteResponse(req, resp)
	ferr := k.part(werr == nil || car.h2 != nil)
	k.ev.HTTP.ResponseBytes = sent
	k.ev.HTTP.RequestBytes = transferred(req)
	message := cut(werr, ferr)
	if refusal := refusedIn(werr, ferr); refusal != nil {
		d.Verdict, d.Reason, message = policy.Deny, refusal.Reason, refusal.Message
	} else if message != "" && c.left.Load() {
		message = textGone
	}
	if ws != nil && resp.Status/100 == 2 {
		d, message = ws.closed(k, d, message)
	}
	if e, ok := resp.Body.(*events); ok && werr == nil && !e.Complete() {
		message = joined(message, "ended because the worker stops: timeouts.drain is over")
	}
	k.end(d, message)
	if werr != nil {
		// The client must not take what it got for the whole.
		k.client.CloseAfter()
	}
	return nil
}

// quieten sets timeouts.stream_idle for what runs from here on.
func (k *call) quieten(d time.Duration) {
	if k.stream != nil {
		k.stream.quiet.Store(int64(d))
		return
	}
	k.c.quiet.Store(int64(d))
}

// resendable reports whether a failed request may be sent once more: nothing of
// a response came, and it was not acted on, or doing it twice means the same.
// An HTTP/1.1 connection from the pool may have been closed just before; a new
// one was not.
func resendable(err error, method string, reused bool) bool {
	var failed *exchange.RoundTripError
	if !errors.As(err, &failed) || !failed.Replayable {
		return false
	}
	return failed.Unprocessed || reused && (idempotent(method) || failed.Op == "write request")
}

func transferred(req *exchange.Request) int64 {
	if req.Body == nil {
		return 0
	}
	return req.Body.Transferred()
}

// cut says in the audit why an exchange ended before its end.
func cut(werr, ferr error) string {
	if werr == nil && ferr == nil {
		return ""
	}
	return cutText(werr, ferr)
}

// cutText is apart because it allocates: an exchange that went well does not.
func cutText(werr, ferr error) string {
	var source *exchange.SourceError
	switch {
	case errors.As(werr, &source):
		return "the upstream cut the response: " + source.Err.Error()
	case werr != nil:
		return "the workload did not take the response: " + werr.Error()
	case errors.As(ferr, &source):
		return "the workload cut the request: " + source.Err.Error()
	default:
		return ""
	}
}
