package proxy

import (
	"net"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
)

// begin prepares the event of an exchange.
func (k *call) begin(now time.Time) {
	e, h, req := k.ev, k.h, &k.x.Request
	e.Time, e.ID, e.Kind, e.Message = now, "", audit.Exchange, ""
	e.Verdict, e.Reason, e.Rule, e.Mode = "", "", "", ""
	e.Duration, e.Counters, e.Count = audit.Duration{}, audit.Counters{}, 0
	e.HTTP = audit.HTTP{Version: req.Version.String(), Method: req.Method, Host: req.Authority, Path: req.Path, Query: req.Query}
	e.Upstream, e.Cache = audit.Upstream{}, ""
	e.TLS.UpstreamVersion = ""
	e.Dst = audit.Destination{IP: h.addr, Port: h.port, Host: h.name}
	e.Traceparent = ""
	if v := req.Header.Get("traceparent"); len(v) == traceparentLength {
		e.Traceparent = v
	}
}

// traceparentLength is that of version 00 (W3C Trace Context section 3.2).
const traceparentLength = 55

// refuse answers a request that is not forwarded. text replaces the hint that
// policy gives.
func (k *call) refuse(d policy.Decision, text string) {
	if text == "" {
		text = policy.Hint(&k.work.query, &d)
	}
	if text == "" {
		text = "refused: " + d.Reason.String()
	}
	k.answer(&exchange.Refusal{Reason: d.Reason, Rule: d.Rule, Message: text}, d)
}

// unreachable answers a permitted request that could not be carried out.
func (k *call) unreachable(d policy.Decision, f *failure) {
	if f.ip.IsValid() {
		k.ev.Upstream.IP = f.ip
	}
	if f.attempts > 0 {
		k.ev.Upstream.Attempts = f.attempts
	}
	refusal := &exchange.Refusal{Reason: f.reason, Rule: d.Rule, Message: f.text}
	if k.stages.Rescue(k.x, refusal) {
		k.answered(d)
		return
	}
	d.Verdict, d.Reason = policy.Deny, f.reason
	k.answer(refusal, d)
}

// answer writes a refusal and ends the exchange.
func (k *call) answer(r *exchange.Refusal, d policy.Decision) {
	k.ev.ID = k.c.p.Audit.NextID()
	r.Event = k.ev.ID
	req, resp := &k.x.Request, &k.x.Response
	// For JSON-RPC the body is read, and a slow sender bounds nothing itself.
	k.enter(reading, time.Now())
	lent := k.lend(r)
	if k.stream != nil && !r.Blind && req.Body != nil && !req.Body.Complete() {
		late := time.AfterFunc(k.c.p.Limits.Head, req.Body.Interrupt)
		defer late.Stop()
	}
	r.Answer(req, resp)
	k.giveBack(lent)
	k.stages.Deliver(k.x)
	_, err := k.client.WriteResponse(req, resp)
	if err == nil {
		k.ev.HTTP.Status = resp.Status
	}
	k.ev.HTTP.RequestBytes = transferred(req)
	k.ev.HTTP.ResponseBytes = max(resp.Length, 0)
	d.Verdict, d.Reason, d.Rule = policy.Deny, r.Reason, r.Rule
	k.end(d, r.Message)
}

// end writes the event of an exchange and counts it.
func (k *call) end(d policy.Decision, message string) {
	k.endMethod(k.x.Request.Method, d, message)
}

func (k *call) endMethod(method string, d policy.Decision, message string) {
	e := k.ev
	if k.stages != nil {
		message = k.settle(&d, message)
	}
	e.Kind, e.Message = audit.Exchange, message
	judged(e, &d)
	e.Duration.Total = time.Since(e.Time)
	k.c.p.Audit.Record(e)
	rule := k.c.rule(k.work, d.Rule)
	rule.Request(&metrics.Request{
		Method: method, Status: e.HTTP.Status, Duration: e.Duration.Total, Upstream: e.Duration.Upstream,
		RequestBytes: e.HTTP.RequestBytes, ResponseBytes: e.HTTP.ResponseBytes,
	})
	if d.Verdict != policy.Allow {
		rule.Denied(d.Reason, d.Verdict)
	}
	e.ID, e.Message, e.WebSocket = "", "", audit.WebSocket{}
}

// judged puts a decision into an event.
func judged(e *audit.Event, d *policy.Decision) {
	e.Verdict, e.Reason, e.Rule, e.Mode = d.Verdict.String(), "", d.Rule, d.Mode.String()
	if d.Verdict != policy.Allow {
		e.Reason = d.Reason.String()
	}
}

// rule gives the metrics of a rule for this workload.
func (c *conn) rule(w *work, name string) *metrics.Rule {
	if w.rule == nil || w.ruleAt != name {
		w.rule, w.ruleAt = c.count.Rule(name), name
	}
	return w.rule
}

// openFlow writes flow_open, once per connection. refused is a decision that
// let the connection in only to answer it; nil means allowed for inspection.
func (c *conn) openFlow(h *hop, handling policy.Handling, decided *policy.Decision) {
	c.ev.TLS.Handling = handling.String()
	if c.open {
		return
	}
	c.open = true
	d := policy.Decision{Verdict: policy.Allow, Mode: c.p.settings.Load().Policy.WorkloadMode(c.id.Name)}
	if decided != nil {
		d = *decided
	}
	c.count.FlowOpened(handling, d.Verdict)
	e := &c.ev
	e.Time, e.ID, e.Kind, e.Message = c.opened, "", audit.FlowOpen, ""
	judged(e, &d)
	c.p.Audit.Record(e)
}

// recordClose writes flow_close for a flow that was opened; why says where the
// workload's leg is from, if not from the kernel as usual.
func (c *conn) recordClose(workload audit.Leg, why string) {
	up := c.leg.Totals()
	if !c.open {
		return
	}
	e := &c.ev
	upLeg := audit.Leg{BytesSent: up.BytesSent, BytesReceived: up.BytesReceived, Segments: up.Segments, Retransmits: up.Retransmits, RTT: up.RTT}
	e.Time, e.ID, e.Kind, e.Message = c.opened, "", audit.FlowClose, why
	e.Verdict, e.Reason, e.Rule, e.Mode = "", "", "", ""
	e.HTTP, e.Traceparent = audit.HTTP{}, ""
	e.Dst.IP, e.Dst.Port = c.flow.Dst.Addr(), c.flow.Dst.Port()
	e.Duration = audit.Duration{Total: time.Since(c.opened)}
	e.Counters = audit.Counters{Workload: workload, Upstream: upLeg}
	c.p.Audit.Record(e)
	c.count.FlowClosed()
	c.count.LegClosed(metrics.WorkloadLeg, workload.BytesSent, workload.BytesReceived, workload.Retransmits, workload.RTT)
	c.count.LegClosed(metrics.UpstreamLeg, up.BytesSent, up.BytesReceived, up.Retransmits, up.RTT)
}

// refuseFlow writes what became of a connection that was not let through.
func (c *conn) refuseFlow(d policy.Decision, text string) {
	if text == "" {
		text = policy.Hint(&c.work.query, &d)
	}
	if !c.open {
		c.count.FlowRefused(policy.Inspect)
	}
	e := &c.ev
	e.Time, e.ID, e.Kind, e.Message = c.opened, "", audit.Refused, text
	e.Duration = audit.Duration{Total: time.Since(c.opened)}
	judged(e, &d)
	c.p.Audit.Record(e)
	c.rule(&c.work, d.Rule).Denied(d.Reason, d.Verdict)
	e.Message, e.Duration = "", audit.Duration{}
}

// recordRejected tells of a client that does not accept our certificate.
func (c *conn) recordRejected(h *hop, err error) {
	c.count.TLSRejected()
	e := &c.ev
	e.Time, e.ID, e.Kind = time.Now(), "", audit.TLSRejected
	e.Verdict, e.Reason, e.Rule, e.Mode = "", "", "", ""
	e.HTTP = audit.HTTP{}
	e.Dst.Host = h.name
	e.Message = "the client rejected our certificate for " + h.literal() + " (" + err.Error() +
		"): make it trust sallyport's root (`sallyport ca bundle` prints it, `sallyport doctor` asks each runtime), or give the host a rule with `handling: tunnel`" + c.pin(h)
	c.p.Audit.Record(e)
	e.Message = ""
}

// note logs what concerns one connection only and is nobody's fault.
func (c *conn) note(text string) {
	c.p.Log.Debug(text, zap.String("workload", c.id.Name), zap.Uint64("flow", c.flow.ID))
}

// abandon ends a connection whose client left before anything was judged.
func (c *conn) abandon() { c.note("the client left before it said anything") }

// recordCrowded counts a connection, or a stream of it, beyond the workload's or
// everybody's share.
func (c *conn) recordCrowded(text string) {
	c.count.Rule("").Denied(policy.Overloaded, policy.Deny)
	n, due := c.share.crowded.hit(time.Now())
	if !due {
		return
	}
	e := c.ev // streams of one connection may come here at the same time
	e.Time, e.Kind, e.Count = c.opened, audit.Refused, n
	e.Message = text
	d := c.ownDecision(policy.Overloaded)
	judged(&e, &d)
	c.p.Audit.Record(&e)
}

// recordCrowded of the proxy tells of connections that were reset unseen.
func (p *Proxy) recordCrowded(n uint64) {
	p.Audit.Record(&audit.Event{
		Time: time.Now(), Kind: audit.Refused, Verdict: policy.Deny.String(), Reason: policy.Overloaded.String(), Count: n,
		Message: "too many connections are open; those beyond were reset before it was known whose they are",
	})
}

// recordLost tells of connections without an origin.
func (p *Proxy) recordLost(tcp *net.TCPConn, err error) {
	p.Metrics.Workload("").Rule("").Denied(policy.FlowLost, policy.Deny)
	n, due := p.lost.hit(time.Now())
	if !due {
		return
	}
	p.Audit.Record(&audit.Event{
		Time: time.Now(), Kind: audit.Refused, Verdict: policy.Deny.String(), Reason: policy.FlowLost.String(), Count: n,
		Message: "a connection from " + tcp.RemoteAddr().String() + " was closed: where it wanted to go is not known: " + err.Error(),
	})
}
