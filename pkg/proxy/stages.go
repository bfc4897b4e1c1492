package proxy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// pipeline gives the stages of the rule at that place, from 1; nil for none.
func (s *Settings) pipeline(rule int) *exchange.Pipeline {
	if rule <= 0 || rule > len(s.Pipelines) {
		return nil
	}
	return s.Pipelines[rule-1]
}

// process runs the request side of the stages of the rule that let the request
// pass, on the way r. It reports whether the exchange goes on; otherwise it has
// ended.
func (k *call) process(s *Settings, t *target, d *policy.Decision, r *route, now time.Time) bool {
	k.stages = s.pipeline(d.Index)
	if k.stages == nil {
		return true
	}
	x := k.x
	x.Subject = exchange.Subject{
		Workload: k.c.id.Name, Rule: d.Rule, Scheme: x.Request.Scheme, Host: t.host, Port: t.port,
		Client: k.c.flow.Src.Addr(), Method: k.work.request.Method, Observe: d.Mode == policy.Observe,
		// now is when the first byte came, which a slow sender chooses.
		Time: time.Now(),
	}
	ctx := &pause{body: x.Request.Body}
	k.ctx = ctx
	k.use(ctx)
	defer k.use(nil)
	if !k.enter(running, now) {
		k.client.CloseAfter()
		k.end(*d, "the exchange was stopped")
		return false
	}
	refusal := k.stages.Request(ctx, x)
	switch {
	case ctx.Err() != nil:
		// Whoever waited was told to stop: there is nobody to answer.
		k.client.CloseAfter()
		k.end(*d, textGone)
		return false
	case refusal != nil:
		k.answer(refusal, *d)
		return false
	case x.Answered():
		if x.Repeated() != nil && !k.repeat(*d, r) {
			k.stages.Withdraw(x)
		}
		k.answered(*d)
		return false
	}
	return true
}

// answered delivers what a stage has answered.
func (k *call) answered(d policy.Decision) {
	req, resp := &k.x.Request, &k.x.Response
	k.stages.Deliver(k.x)
	k.ev.HTTP.Status = resp.Status
	sent, err := k.client.WriteResponse(req, resp)
	k.ev.HTTP.RequestBytes, k.ev.HTTP.ResponseBytes = transferred(req), sent
	k.end(d, cut(err, nil))
	if err != nil {
		k.client.CloseAfter()
	}
}

// respond runs the response side over what the upstream answered. It reports
// whether that is to be delivered; otherwise the exchange has ended.
func (k *call) respond(d *policy.Decision) bool {
	if k.stages == nil {
		return true
	}
	x := k.x
	refusal := k.stages.Response(k.ctx, x)
	if refusal == nil && !x.Answered() {
		k.stages.Deliver(x)
		return true
	}
	// What was left of the upstream's answer is nobody's.
	_ = k.part(true)
	if refusal != nil {
		k.answer(refusal, *d)
	} else {
		k.answered(*d)
	}
	return false
}

// settle ends the stages and puts what they noted into the event.
func (k *call) settle(d *policy.Decision, message string) string {
	x := k.x
	k.stages.End(x)
	k.stages.Redact(x)
	k.stages, k.ctx = nil, nil
	r := &x.Record
	e := k.ev
	e.Duration.Queued = r.Queued
	if r.Cache != exchange.NoCache {
		e.Cache = strings.ToLower(r.Cache.String())
		k.c.p.Metrics.CacheRequest(r.Cache)
	}
	recorded(&e.HTTP, r)
	if o := x.Objection(); o != nil && d.Verdict == policy.Allow {
		d.Verdict, d.Reason = policy.WouldDeny, o.Reason
		message = joined(message, o.Message)
	}
	return joined(message, r.Message)
}

// recorded puts what a stage recorded of the messages into the event.
func recorded(h *audit.HTTP, r *exchange.Record) {
	if r.Path != "" {
		h.Path = r.Path
	}
	if r.Query != "" {
		h.Query = r.Query
	}
	if r.RequestHeaders == nil && r.ResponseHeaders == nil && r.RequestBody == nil && r.ResponseBody == nil {
		return
	}
	h.RequestHeaders, h.ResponseHeaders = headerLines(r.RequestHeaders), headerLines(r.ResponseHeaders)
	h.RequestBody, h.ResponseBody = string(r.RequestBody), string(r.ResponseBody)
	h.Truncated = r.Truncated
}

func headerLines(fields []exchange.Field) []audit.Header {
	list := make([]audit.Header, len(fields))
	for i := range fields {
		list[i] = audit.Header{Name: fields[i].Name, Value: fields[i].Value}
	}
	return list
}

func joined(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	default:
		return a + "; " + b
	}
}

// refusedIn gives the refusal with which a stage ended a body, nil if none of
// the errors is one.
func refusedIn(errs ...error) *exchange.Refusal {
	for _, err := range errs {
		var r *exchange.Refusal
		if err != nil && errors.As(err, &r) {
			return r
		}
	}
	return nil
}

// A pause is the context of the stages of one exchange: it ends when the
// exchange is interrupted. A plain one would be known to a context that all
// connections share, at the price of its lock.
type pause struct {
	body exchange.Body

	mu   sync.Mutex
	done chan struct{}
	err  error
}

var (
	_ context.Context = (*pause)(nil)
	_ inUse           = (*pause)(nil)
)

// Deadline implements context.Context: there is none.
func (p *pause) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Value implements context.Context: there is none.
func (p *pause) Value(any) any { return nil }

// Done implements context.Context.
func (p *pause) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		if p.err != nil {
			close(p.done)
		}
	}
	return p.done
}

// Err implements context.Context.
func (p *pause) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Interrupt implements inUse.
func (p *pause) Interrupt() {
	p.mu.Lock()
	if p.err == nil {
		p.err = context.Canceled
		if p.done != nil {
			close(p.done)
		}
	}
	p.mu.Unlock()
	if p.body != nil {
		p.body.Interrupt()
	}
}

// Silence implements inUse: what a stage waits for says nothing of the upstream.
func (p *pause) Silence() (time.Duration, error) { return 0, nil }
