package cache

import (
	"net/http"
	"strings"
	"time"

	"sallyport/pkg/exchange"
)

// A freshness is how long a stored response may be used and how (RFC 9111
// section 4.2).
type freshness struct {
	// born is when it would have been made for its Age to be true now.
	born time.Time
	// received is when it came, or was confirmed.
	received time.Time
	// until is when it becomes stale.
	until time.Time
	// ask says that it may not be used unconfirmed at all (no-cache); strict that
	// it may not be used stale (must-revalidate and what implies it).
	ask, strict bool
	// whileRevalidate and ifError are how long behind until it may be used
	// in spite of being stale (RFC 5861); 0 is not.
	whileRevalidate, ifError time.Duration
}

// age gives the current age (RFC 9111 section 4.2.3).
func (f *freshness) age(now time.Time) time.Duration { return max(now.Sub(f.born), 0) }

// left gives how long it stays fresh; what is stale has 0 or less.
func (f *freshness) left(now time.Time) time.Duration { return f.until.Sub(now) }

// dead reports whether it is of no use any more: nothing lets it be used stale,
// and what could confirm it is kept for a day.
func (f *freshness) dead(now time.Time, validators bool) bool {
	keep := max(f.whileRevalidate, f.ifError, time.Hour)
	if validators {
		keep = max(keep, 24*time.Hour)
	}
	return f.left(now) < -keep
}

// A reading is what a response says about how it may be stored.
type reading struct {
	control control
	// stated says that the response states when it becomes stale, lifetime what.
	stated   bool
	lifetime time.Duration
	// date is the Date field, or when the response came; age the Age field.
	date time.Time
	age  time.Duration
}

// read takes from a header what matters, for a response that came at the time.
func read(h *exchange.Header, received time.Time) reading {
	r := reading{control: parseControl(h), date: received}
	var expires string
	var age, expiry int
	for i := range h.Len() {
		f := h.At(i)
		switch {
		case f.ID == exchange.Date:
			if t, err := http.ParseTime(f.Value); err == nil {
				r.date = t
			}
		case f.ID != exchange.OtherName:
		case exchange.EqualFold(f.Name, "Age"):
			// A list's first member counts (RFC 9111 section 5.1).
			if age++; age == 1 {
				first, _, _ := strings.Cut(f.Value, ",")
				r.age = span(deltaSeconds(strings.TrimSpace(first)))
			}
		case exchange.EqualFold(f.Name, "Expires"):
			expires = f.Value
			expiry++
		}
	}
	c := &r.control
	switch {
	case c.sMaxAge != absent:
		r.stated, r.lifetime = true, span(c.sMaxAge)
	case c.maxAge != absent:
		r.stated, r.lifetime = true, span(c.maxAge)
	case expiry > 0:
		r.stated = true
		// What is no date, "0" above all, is the past (RFC 9111 section 5.3); so
		// are two dates.
		if t, err := http.ParseTime(expires); err == nil && expiry == 1 {
			r.lifetime = max(t.Sub(r.date), 0)
		}
	}
	return r
}

// freshness says how long the response may be used. asked is when its request
// went out. ttl is the lifetime of a response that states none, and with force
// that of every response, counted from when it came.
func (r *reading) freshness(asked, received time.Time, ttl time.Duration, force bool) freshness {
	c := &r.control
	delay := max(received.Sub(asked), 0)
	corrected := r.age + delay
	apparent := max(received.Sub(r.date), 0)
	f := freshness{
		received: received, born: received.Add(-max(apparent, corrected)),
		ask:    c.has(noCache),
		strict: c.has(mustRevalidate) || c.has(proxyRevalidate) || c.has(noCache) || c.sMaxAge != absent,
	}
	switch {
	case force:
		f.until, f.ask, f.strict = received.Add(ttl), false, false
	case r.stated:
		f.until = f.born.Add(r.lifetime)
	default:
		// The clock of an upstream that says nothing of time is not asked.
		f.until = received.Add(ttl - corrected)
	}
	if !f.strict {
		f.whileRevalidate, f.ifError = span(max(c.staleWhileRevalidate, 0)), span(max(c.staleIfError, 0))
	}
	return f
}
