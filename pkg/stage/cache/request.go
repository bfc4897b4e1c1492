package cache

import (
	"context"
	"slices"
	"time"

	"sallyport/pkg/exchange"
)

// A question is what a request says to a cache.
type question struct {
	control control
	// bypass says that what it asks for is not answered from memory.
	bypass bool
	// noneMatch and modifiedSince are its conditions, "" for none.
	noneMatch, modifiedSince string
	caller                   digest
	authorized               bool
}

// ask reads a question off a request.
func (s *Stage) ask(req *exchange.Request) question {
	q := question{
		control: parseControl(&req.Header),
		bypass:  req.Upgrade != "" || req.Body != nil || req.Length != exchange.NoBody || !slices.Contains(s.rule.Methods, req.Method),
	}
	pragma := false
	for i := range req.Header.Len() {
		f := req.Header.At(i)
		if f.ID == exchange.Range {
			q.bypass = true
		}
		if f.ID != exchange.OtherName {
			continue
		}
		switch len(f.Name) {
		case len("Pragma"):
			pragma = pragma || exchange.EqualFold(f.Name, "Pragma") && exchange.EqualFold(f.Value, "no-cache")
		case len("If-Match"), len("If-Unmodified-Since"):
			// They are for the origin alone (RFC 9111 section 4.3.2).
			q.bypass = q.bypass || exchange.EqualFold(f.Name, "If-Match") || exchange.EqualFold(f.Name, "If-Range") ||
				exchange.EqualFold(f.Name, "If-Unmodified-Since")
		case len("If-None-Match"):
			if exchange.EqualFold(f.Name, "If-None-Match") {
				if q.noneMatch != "" {
					q.noneMatch += ", "
				}
				q.noneMatch += f.Value
			}
		case len("If-Modified-Since"):
			if exchange.EqualFold(f.Name, "If-Modified-Since") {
				q.modifiedSince = f.Value
			}
		}
	}
	// Pragma says the same for caches of HTTP/1.0 (RFC 9111 section 5.4).
	if pragma && !q.control.given {
		q.control.set |= noCache
	}
	if q.control.has(noStore) {
		q.bypass = true
	}
	return q
}

// A passage is a request that goes upstream although the rule has a cache.
type passage struct {
	question question
	key      []byte
	hash     uint64
	// epoch is the store's when the request went out at asked.
	epoch uint32
	asked time.Time
	// stale is what was found and could not be used as it is; confirming says
	// that the request asks whether it still holds.
	stale      *entry
	confirming bool
	// again says that no client waits for the response.
	again bool
	// flight is what others wait for.
	flight *flight
	fill   *fill
}

// Request implements exchange.RequestStage.
func (s *Stage) Request(ctx context.Context, x *exchange.Exchange) *exchange.Refusal {
	q := s.ask(&x.Request)
	if q.bypass {
		x.Record.Cache = exchange.CacheBypass
		if q.control.has(onlyIfCached) && slices.Contains(s.rule.Methods, x.Request.Method) {
			s.absent(x)
		}
		return nil
	}
	now := s.now()
	q.caller, q.authorized = s.names.credentials(&x.Request.Header)
	var room [256]byte
	key := appendKey(room[:0], x)
	hash := s.store.hash(key)
	e := s.store.find(hash, key).choose(s.scope(x), q.caller, &x.Request)
	use := e.use(&q, now)
	switch {
	case use == useAsIs:
		s.serve(x, &q, e, now)
		return nil
	case q.control.has(onlyIfCached):
		x.Record.Cache = exchange.CacheMiss
		s.absent(x)
		return nil
	}
	p := &passage{question: q, key: slices.Clone(key), hash: hash, stale: e}
	if use == useMeanwhile {
		s.meanwhile(x, p, now)
		return nil
	}
	if s.wait(ctx, x, p) {
		return nil
	}
	s.prepare(x, p)
	return nil
}

// A use is what may be done with an entry.
type use uint8

const (
	// useNot: the upstream must be asked.
	useNot use = iota
	useAsIs
	// useMeanwhile is using it while the upstream is asked.
	useMeanwhile
)

// use says what a question lets be done with an entry (RFC 9111 sections 4.2.4
// and 5.2.1). A nil entry is of no use.
func (e *entry) use(q *question, now time.Time) use {
	if e == nil {
		return useNot
	}
	f, c := &e.freshness, &q.control
	left := f.left(now)
	switch {
	case f.ask, c.has(noCache), c.maxAge != absent && f.age(now) > span(c.maxAge):
		return useNot
	case left > 0 && (c.minFresh == absent || left >= span(c.minFresh)):
		return useAsIs
	case left > 0, f.strict, c.minFresh != absent:
		return useNot
	case c.maxStale != absent && -left <= span(c.maxStale):
		return useAsIs
	case -left < f.whileRevalidate:
		return useMeanwhile
	default:
		return useNot
	}
}

// serve answers from an entry.
func (s *Stage) serve(x *exchange.Exchange, q *question, e *entry, now time.Time) {
	x.Record.Cache = exchange.CacheHit
	s.fillFrom(x, q, e, now)
	x.Answer()
}

// fillFrom fills the response from an entry, as x.Record.Cache says; a client
// that has the same already is told so.
func (s *Stage) fillFrom(x *exchange.Exchange, q *question, e *entry, now time.Time) {
	if !e.used.Load() {
		e.used.Store(true)
	}
	if q.holds(e) {
		e.unchanged(&x.Response, now, x.Record.Cache)
		return
	}
	e.answer(&x.Request, &x.Response, now, x.Record.Cache)
}

// absent answers a client that wants nothing but what is stored (RFC 9111
// section 5.2.1.7).
func (s *Stage) absent(x *exchange.Exchange) {
	const text = `{"error":"nothing that may be used is stored, and the request wants nothing else (Cache-Control: only-if-cached)"}` + "\n"
	resp := &x.Response
	resp.Reset()
	resp.Version, resp.Status = exchange.HTTP11, 504
	resp.Header.Append(exchange.Field{Name: "Content-Type", Value: "application/json", ID: exchange.ContentType, Checked: true})
	resp.Header.Append(lengthField(int64(len(text))))
	resp.Header.Append(statusField(x.Record.Cache))
	resp.Length = int64(len(text))
	resp.Body = exchange.NewBytes([]byte(text))
	x.Answer()
}

// waitTime bounds how long a request waits for another one that asks for the
// same; nginx's proxy_cache_lock_timeout is as long.
const waitTime = 5 * time.Second

// wait joins a request with others for the same. It reports whether the request
// has been answered; otherwise it goes on, alone or as the one for which others
// wait. One that has waited in vain does not wait again.
func (s *Stage) wait(ctx context.Context, x *exchange.Exchange, p *passage) (answered bool) {
	begin := s.now()
	fl, leads := s.store.flights.join(s.flightKey(x, p), begin)
	if leads {
		p.flight = fl
	}
	if fl == nil || leads {
		return false
	}
	timer := time.NewTimer(waitTime)
	defer timer.Stop()
	select {
	case <-fl.done:
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	now := s.now()
	e := s.store.find(p.hash, p.key).choose(s.scope(x), p.question.caller, &x.Request)
	// What came since we ask is as new as what we would get.
	if use := e.use(&p.question, now); use == useAsIs || e != nil && !e.freshness.ask && e.freshness.left(now) > 0 && !e.freshness.received.Before(begin) {
		s.serve(x, &p.question, e, now)
		return true
	}
	p.stale = e
	if e.use(&p.question, now) == useMeanwhile {
		s.meanwhile(x, p, now)
		return true
	}
	return false
}

// flightKey says which requests wait for each other: those that would select
// the same variant, as far as that is known yet.
func (s *Stage) flightKey(x *exchange.Exchange, p *passage) digest {
	sc := s.scope(x)
	b := appendPart(make([]byte, 0, 512), string(p.key))
	b = appendPart(b, sc.rule)
	b = append(b, sc.print[:]...)
	b = append(b, p.question.caller[:]...)
	b = append(b, x.Request.Method[0])
	if sc.observe {
		b = append(b, 'o')
	}
	if known := s.store.find(p.hash, p.key).list(); len(known) > 0 {
		for _, name := range known[0].selection.names {
			b = appendPart(b, selecting(&x.Request.Header, name))
		}
	}
	return digestOf(b)
}

// prepare makes the request one that goes upstream, for p.
func (s *Stage) prepare(x *exchange.Exchange, p *passage) {
	x.Keep(s, p)
	x.Record.Cache = exchange.CacheMiss
	p.asked = s.now()
	p.epoch = s.store.bucket(p.hash).epoch.Load()
	e := p.stale
	if e == nil {
		return
	}
	x.Record.Cache = exchange.CacheRefresh
	if !e.validators() {
		return
	}
	// The client's own conditions are judged by what comes of ours.
	p.confirming = true
	h := &x.Request.Header
	h.Del("If-None-Match")
	h.Del("If-Modified-Since")
	if e.etag != "" {
		h.Add("If-None-Match", e.etag)
	}
	if e.modified != "" {
		h.Add("If-Modified-Since", e.modified)
	}
}

// meanwhile answers from what is stale and has the upstream asked behind the
// client's back, once for all who come meanwhile (RFC 5861 section 3).
func (s *Stage) meanwhile(x *exchange.Exchange, p *passage, now time.Time) {
	key := s.flightKey(x, p)
	s.serve(x, &p.question, p.stale, now)
	fl, leads := s.store.flights.join(key, now)
	if !leads {
		return
	}
	p.flight = fl
	x.Keep(s, p)
	x.Repeat(func(again *exchange.Exchange) {
		// The flight is the other exchange's to land.
		moved := *p
		p.flight, moved.again = nil, true
		s.prepare(again, &moved)
		again.Record.Message = "asked again behind an answer that was stale"
	})
}
