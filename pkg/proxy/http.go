package proxy

import (
	"errors"
	"io"
	"net/netip"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/http1"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// serveHTTP answers the requests of one hop until it ends or becomes something
// else.
func (c *conn) serveHTTP(h *hop) {
	sc := c.p.codec.Server(h.conn)
	detached := false
	defer func() {
		if !detached {
			c.enter(reading, time.Now()) // Close may linger
			c.measure()
			sc.Close()
		}
	}()
	for {
		if !c.enter(waiting, time.Now()) {
			return
		}
		if c.p.draining.Load() {
			c.stopIdle()
		}
		if err := sc.Wait(); err != nil {
			c.readFailed(h, err)
			return
		}
		now := time.Now()
		// An idle connection that is being stopped takes no further request.
		c.since.Store(int64(now.Sub(c.p.start)))
		if !c.phase.CompareAndSwap(waiting, reading) {
			return
		}
		x := c.p.exchanges.Get()
		next := c.exchange(h, sc, x, now)
		c.p.exchanges.Put(x)
		if next == nil {
			if sc.Finish() {
				continue
			}
			return
		}
		detached = true
		next(h)
		return
	}
}

// readFailed ends a connection whose next request cannot be read. A client of
// TLS 1.3 may say only now that it does not trust us.
func (c *conn) readFailed(h *hop, err error) {
	if h.secure && rejected(err) {
		c.recordRejected(h, err)
	}
}

// after is what becomes of a connection on which HTTP has ended.
type after func(*hop)

// exchange carries one request and its response. Where the connection becomes
// something else it gives what; the codec is detached then.
func (c *conn) exchange(h *hop, sc *http1.ServerConn, x *exchange.Exchange, now time.Time) after {
	req := &x.Request
	err := sc.ReadRequest(req)
	c.beginRecord(h, req, now)
	if err != nil {
		c.requestFailed(h, sc, x, err)
		return nil
	}
	if c.p.draining.Load() {
		sc.CloseAfter()
	}
	s := c.p.settings.Load()
	if err := c.p.Audit.Healthy(); err != nil {
		c.refuse(sc, x, c.ownDecision(policy.AuditUnavailable), "no request is let through while the audit cannot be written")
		return nil
	}
	t, d, text := c.requestTarget(h, req)
	if d != nil {
		c.refuse(sc, x, *d, text)
		return nil
	}
	if req.Form == exchange.AuthorityForm {
		return c.connectRequest(h, sc, x, s, &t, now)
	}
	w := &c.work
	w.fields.header = &req.Header
	w.request = policy.HTTPQuery{Method: req.Method, Path: req.Path, Header: &w.fields}
	protocol := policy.HTTP
	if t.scheme == upstream.TLS {
		protocol = policy.HTTPS
	}
	decision, r, fail := c.decide(s, &t, protocol, &w.request, now)
	c.ev.Rule, c.ev.Mode = decision.Rule, decision.Mode.String()
	switch {
	case !decision.Verdict.Passes():
		c.refuse(sc, x, decision, "")
		return nil
	case fail != nil:
		c.unreachable(sc, x, decision, fail)
		return nil
	}
	if decision.Path != "" {
		req.Path = decision.Path
	}
	return c.forward(h, sc, x, decision, r)
}

// requestFailed ends a connection whose request could not be read, with an
// answer if it was read and is wrong.
func (c *conn) requestFailed(h *hop, sc *http1.ServerConn, x *exchange.Exchange, err error) {
	var bad *exchange.MalformedError
	if errors.As(err, &bad) {
		c.answer(sc, x, bad.Refusal(), c.ownDecision(policy.MalformedRequest))
		return
	}
	c.readFailed(h, err)
	sc.CloseAfter()
}

// requestTarget finds where a request wants to go and whether it agrees with
// the name of its connection. A decision is a refusal.
func (c *conn) requestTarget(h *hop, req *exchange.Request) (t target, refused *policy.Decision, text string) {
	t = target{scheme: upstream.Clear, addr: h.addr, port: h.port}
	standard := uint16(80)
	switch {
	case req.Form == exchange.AbsoluteForm:
		// The address of the proxy that the workload named means nothing.
		t.addr = netip.Addr{}
		if req.Scheme == "https" {
			t.scheme, standard = upstream.TLS, 443
		}
	case req.Form == exchange.AuthorityForm:
		t.addr, standard = netip.Addr{}, 0
	case h.secure:
		t.scheme, standard = upstream.TLS, 443
	}
	if req.Scheme == "" && req.Form != exchange.AuthorityForm {
		req.Scheme = "http"
		if t.scheme == upstream.TLS {
			req.Scheme = "https"
		}
	}
	c.ev.HTTP.Scheme = req.Scheme
	if req.Authority == "" {
		// HTTP/1.0 without Host: what the connection itself told.
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
		req.Authority = t.host
		c.ev.HTTP.Host, c.ev.Dst.Host = t.host, t.host
		return t, nil, ""
	}
	w := &c.work
	if w.authority != req.Authority || w.given != standard {
		host, port, err := policy.CanonicalAuthority(req.Authority, standard)
		if err != nil {
			d := c.ownDecision(policy.MalformedRequest)
			return t, &d, "the host of the request: " + err.Error()
		}
		w.authority, w.given, w.host, w.port = req.Authority, standard, host, port
	}
	t.host = w.host
	c.ev.HTTP.Host, c.ev.Dst.Host = t.host, t.host
	switch {
	case req.Form == exchange.AbsoluteForm, req.Form == exchange.AuthorityForm:
		t.port = w.port
		c.ev.Dst.IP, c.ev.Dst.Port = netip.Addr{}, t.port
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
func (c *conn) forward(h *hop, sc *http1.ServerConn, x *exchange.Exchange, d policy.Decision, r *route) after {
	req, resp := &x.Request, &x.Response
	c.quiet.Store(int64(d.Timeouts.StreamIdle))
	begin := time.Now()
	if !c.enter(running, begin) {
		sc.CloseAfter()
		return nil
	}
	w := &c.work
	w.server, w.running = sc, req
	if w.interim == nil {
		w.interim = func(interim *exchange.Response) error { return w.server.WriteInformational(w.running, interim) }
	}
	opts := exchange.Options{HeaderTimeout: d.Timeouts.ResponseHeader, Informational: w.interim}
	c.ev.Upstream.Target, c.ev.Upstream.Attempts = r.text, 0
	var u *upstream.Conn
	var cc *http1.ClientConn
	for fresh := false; ; fresh = true {
		var fail *failure
		if u, fail = c.upstream(r, fresh); fail != nil {
			c.ev.Duration.Upstream = time.Since(begin)
			c.unreachable(sc, x, d, fail)
			return nil
		}
		cc = codecOf(c.p, u)
		c.use(u)
		err := cc.RoundTrip(req, resp, opts)
		if err == nil {
			break
		}
		cc.Finish(req)
		c.use(nil)
		reused := u.Reused()
		cc.Close()
		if reused && !fresh && resendable(err, req.Method) {
			continue
		}
		c.ev.Duration.Upstream = time.Since(begin)
		c.roundTripFailed(sc, x, d, err)
		return nil
	}
	c.ev.Duration.Upstream = time.Since(begin)
	c.ev.TLS.UpstreamVersion = tlsVersion(u.TLSVersion())
	c.ev.HTTP.Status = resp.Status
	if resp.Status == switchingProtocols {
		return c.upgrade(h, sc, cc, u, x, d)
	}
	if c.p.draining.Load() {
		sc.CloseAfter()
	}
	sent, werr := sc.WriteResponse(req, resp)
	reusable, ferr := cc.Finish(req)
	c.use(nil)
	if reusable && werr == nil && !c.p.draining.Load() {
		c.work.last = u
		u.Release()
	} else {
		cc.Close()
	}
	c.ev.HTTP.ResponseBytes = sent
	c.ev.HTTP.RequestBytes = transferred(req)
	c.endExchange(req, d, cut(werr, ferr))
	if werr != nil {
		// The client must not take what it got for the whole.
		sc.CloseAfter()
	}
	return nil
}

// resendable reports whether a request that failed on a connection from the
// pool may be sent once more: nothing of a response came, and either it was not
// sent or sending it twice means the same.
func resendable(err error, method string) bool {
	var failed *exchange.RoundTripError
	return errors.As(err, &failed) && failed.Replayable && (idempotent(method) || failed.Op == "write request")
}

// upstream takes a connection for a route, from the pool unless fresh.
func (c *conn) upstream(r *route, fresh bool) (*upstream.Conn, *failure) {
	if !fresh {
		if u := r.host.Idle(r.way, &c.leg, c.work.last); u != nil {
			c.ev.Upstream.IP = u.Addr()
			c.ev.Upstream.Attempts++
			return u, nil
		}
	}
	u, err := r.host.Dial(c.context(), r.way, &c.leg)
	c.countHandshake(r.target.scheme, err)
	if err != nil {
		fail := dialFailure(err)
		fail.attempts += c.ev.Upstream.Attempts
		return nil, fail
	}
	c.ev.Upstream.IP = u.Addr()
	c.ev.Upstream.Attempts += u.Attempts()
	return u, nil
}

// codecOf gives the HTTP codec of an upstream connection, kept with it while it
// is pooled.
func codecOf(p *Proxy, u *upstream.Conn) *http1.ClientConn {
	cc, ok := u.Codec.(*http1.ClientConn)
	if !ok {
		cc = p.codec.Client(u)
		u.Codec = cc
	}
	return cc
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

// roundTripFailed answers a request that got no response.
func (c *conn) roundTripFailed(sc *http1.ServerConn, x *exchange.Exchange, d policy.Decision, err error) {
	var failed *exchange.RoundTripError
	if !errors.As(err, &failed) {
		if errors.Is(err, exchange.ErrInvalidField) {
			// Nothing that the parser let through comes here.
			c.answer(sc, x, &exchange.Refusal{Reason: policy.MalformedRequest, Message: "the request cannot be written for the upstream"}, c.ownDecision(policy.MalformedRequest))
			return
		}
		// The client did not take an interim response: it is gone.
		sc.CloseAfter()
		c.endExchange(&x.Request, d, "the workload is gone")
		return
	}
	var bad *exchange.MalformedError
	switch {
	case c.phase.Load() == stopped:
		sc.CloseAfter()
		c.endExchange(&x.Request, d, "the exchange was stopped")
	case failed.Op == "read request body" && errors.As(err, &bad):
		c.answer(sc, x, bad.Refusal(), c.ownDecision(policy.MalformedRequest))
	case failed.Op == "read request body":
		sc.CloseAfter()
		c.endExchange(&x.Request, d, "the workload cut the request: "+failed.Err.Error())
	case isTimeout(err):
		c.unreachable(sc, x, d, &failure{reason: policy.UpstreamTimeout, text: "the upstream did not answer within " + d.Timeouts.ResponseHeader.String()})
	case errors.As(err, &bad):
		c.unreachable(sc, x, d, &failure{reason: policy.UpstreamUnreachable, text: "the upstream's answer is not valid HTTP: " + bad.Text})
	case errors.Is(err, io.ErrUnexpectedEOF):
		c.unreachable(sc, x, d, &failure{reason: policy.UpstreamUnreachable, text: "the upstream closed the connection before it answered"})
	default:
		c.unreachable(sc, x, d, &failure{reason: policy.UpstreamUnreachable, text: "the upstream failed before it answered: " + failed.Err.Error()})
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
