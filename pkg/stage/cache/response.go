package cache

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// Response implements exchange.ResponseStage.
func (s *Stage) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	p, _ := x.Kept(s).(*passage)
	if p == nil {
		invalidate(s.store, x)
		if x.Request.Upgrade == "" {
			x.Response.Header.Set(StatusField, x.Record.Cache.String())
		}
		return nil
	}
	now := s.now()
	status := x.Response.Status
	switch {
	case status == 304 && p.confirming:
		s.confirmed(x, p, now)
		return nil
	case failed(status) && p.stale.forError(&p.question, now):
		s.instead(x, p, now, fmt.Sprintf("the upstream answered %d; what was stored is stale and allowed for errors", status))
		x.Answer()
		return nil
	case status == 304:
		// The client's own condition was answered.
		s.land(p, false)
	default:
		s.keep(x, p, now)
	}
	x.Response.Header.Set(StatusField, x.Record.Cache.String())
	return nil
}

// failed reports whether a status is an error in the sense of stale-if-error
// (RFC 5861 section 4).
func failed(status int) bool {
	return status == 500 || status >= 502 && status <= 504
}

// forError reports whether an entry may be used because the upstream failed.
func (e *entry) forError(q *question, now time.Time) bool {
	if e == nil || e.freshness.strict || e.freshness.ask || q.control.has(noCache) {
		return false
	}
	allowed := max(e.freshness.ifError, span(max(q.control.staleIfError, 0)))
	return allowed > 0 && -e.freshness.left(now) < allowed
}

// instead fills the response from what is stale.
func (s *Stage) instead(x *exchange.Exchange, p *passage, now time.Time, message string) {
	s.land(p, false)
	x.Record.Cache, x.Record.Message = exchange.CacheHit, message
	s.fillFrom(x, &p.question, p.stale, now)
}

// Rescue implements exchange.RescueStage: an upstream that cannot be reached is
// an error, one that shows a wrong certificate is not to be passed over.
func (s *Stage) Rescue(x *exchange.Exchange, r *exchange.Refusal) bool {
	p, _ := x.Kept(s).(*passage)
	now := s.now()
	if p == nil || !p.stale.forError(&p.question, now) {
		return false
	}
	switch r.Reason {
	case policy.UpstreamUnreachable, policy.UpstreamTimeout, policy.NoHealthyTarget:
		s.instead(x, p, now, r.Message+"; what was stored is stale and allowed for errors")
		return true
	default:
		return false
	}
}

// End implements exchange.EndStage: what did not come to its end is not stored.
func (s *Stage) End(x *exchange.Exchange) {
	p, _ := x.Kept(s).(*passage)
	if p == nil {
		return
	}
	if p.fill != nil {
		p.fill.abandon(false)
	}
	s.land(p, false)
}

// land lets those go on who wait for the request.
func (s *Stage) land(p *passage, useless bool) {
	if p.flight != nil {
		s.store.flights.land(p.flight, useless)
		p.flight = nil
	}
}

// storable reports whether what a response says lets it be stored at all (RFC
// 9111 section 3).
func (r *reading) storable(q *question) bool {
	c := &r.control
	if c.has(noStore) || c.has(private) {
		return false
	}
	// Section 3.5.
	return !q.authorized || c.has(public) || c.has(mustRevalidate) || c.sMaxAge != absent
}

// confirmed answers with what is stored, which the upstream has said to hold
// (RFC 9111 section 4.3.4).
func (s *Stage) confirmed(x *exchange.Exchange, p *passage, now time.Time) {
	confirmation := &x.Response.Header
	e, full := p.stale.merged(confirmation)
	r := read(&full, now)
	e.freshness = r.freshness(p.asked, now, s.rule.TTL, s.rule.Force && !p.question.authorized)
	useful := false
	if r.storable(&p.question) {
		e.used.Store(true)
		useful = s.store.put(x.Subject.Workload, p.hash, p.key, e, 0, p.epoch) && e.fresh(now)
	} else {
		s.store.discard(p.stale)
	}
	s.land(p, !useful)
	// A cookie is for this client only: it is not among what was merged.
	var cookies []exchange.Field
	for i := range confirmation.Len() {
		if f := confirmation.At(i); f.ID == exchange.SetCookie {
			cookies = append(cookies, *f)
		}
	}
	x.Record.Cache = exchange.CacheRefresh
	s.fillFrom(x, &p.question, e, now)
	for _, f := range cookies {
		x.Response.Header.Append(f)
	}
	x.Answer()
}

// keep stores a response as it passes by, if that may be and is of use.
func (s *Stage) keep(x *exchange.Exchange, p *passage, now time.Time) {
	resp := &x.Response
	e := s.entryFor(x, p, now)
	if e == nil {
		// The upstream has decided otherwise than what is stored says.
		if st := resp.Status; p.stale != nil && (st < 400 || st == 404 || st == 410) {
			s.store.discard(p.stale)
		}
		s.land(p, !failed(resp.Status))
		if p.again {
			resp.Body = nil
		}
		return
	}
	if p.stale != nil && e.head && !p.stale.head {
		s.compare(x, p, e, now)
	}
	if resp.Body == nil || resp.Length == exchange.NoBody {
		ok := s.store.put(x.Subject.Workload, p.hash, p.key, e, 0, p.epoch)
		s.land(p, !ok || !e.fresh(now))
		return
	}
	p.fill = &fill{stage: s, passage: p, entry: e, workload: x.Subject.Workload, trailer: &resp.Trailer, length: resp.Length}
	resp.Body = exchange.Watch(resp.Body, p.fill)
}

// fresh reports whether the entry serves a plain request, without asking or
// while that is done behind it.
func (e *entry) fresh(now time.Time) bool {
	return !e.freshness.ask && e.freshness.left(now) > -max(e.freshness.whileRevalidate, 0)
}

// entryFor gives the entry that a response makes, without its body; nil where
// it may not be stored, or would be of no use.
func (s *Stage) entryFor(x *exchange.Exchange, p *passage, now time.Time) *entry {
	resp := &x.Response
	if !slices.Contains(s.rule.Statuses, resp.Status) || resp.Status == 206 || resp.Status < 200 || !s.typed(resp) ||
		resp.Length > int64(s.rule.MaxBody) && resp.Body != nil || resp.Header.Find(exchange.Trailer) != nil {
		return nil
	}
	r := read(&resp.Header, now)
	// A response that sets a cookie speaks to one caller, whatever else it says.
	if !r.storable(&p.question) || r.control.has(mustUnderstand) && !understood(resp.Status) ||
		resp.Header.Find(exchange.SetCookie) != nil || resp.Header.Has("Set-Cookie2") {
		return nil
	}
	sel, ok := selectionOf(&resp.Header, &x.Request.Header)
	if !ok {
		return nil
	}
	f := r.freshness(p.asked, now, s.rule.TTL, s.rule.Force && !p.question.authorized)
	e := newEntry(resp)
	if (f.ask || f.left(now) <= 0 && f.whileRevalidate == 0 && f.ifError == 0) && !e.validators() {
		return nil
	}
	e.scope, e.caller, e.selection, e.freshness = *s.scope(x), p.question.caller, sel, f
	if e.head = x.Request.Method == "HEAD"; e.head && resp.Header.Find(exchange.ContentLength) == nil {
		e.length = exchange.UnknownLength
	}
	e.size += sel.size()
	return e
}

// understood reports whether a status is one of RFC 9110, with the rules for
// storing it that it has there (RFC 9111 section 5.2.2.3).
func understood(status int) bool { return http.StatusText(status) != "" }

// compare looks at what an answer to HEAD says of what is stored for GET (RFC
// 9111 section 4.3.5): the same is confirmed, anything else is dropped.
func (s *Stage) compare(x *exchange.Exchange, p *passage, head *entry, now time.Time) {
	old := p.stale
	same := head.status == old.status && head.etag == old.etag && head.modified == old.modified && old.validators() &&
		(head.length < 0 || head.length == old.length)
	if !same {
		s.store.discard(old)
		return
	}
	e, _ := old.merged(&x.Response.Header)
	e.freshness = head.freshness
	s.store.put(x.Subject.Workload, p.hash, p.key, e, 0, p.epoch)
}
