package cache

import (
	"math"
	"strings"
	"time"

	"sallyport/pkg/exchange"
)

// A directive is a directive of Cache-Control that has no value, or whose value
// is not looked at.
type directive uint16

const (
	noStore directive = 1 << iota
	noCache
	private
	public
	mustRevalidate
	proxyRevalidate
	onlyIfCached
	mustUnderstand
)

// absent is the value of a directive that was not given.
const absent = -1

// maxSeconds is as long as a cache looks ahead: 2^31 seconds, which RFC 9111
// section 1.2.2 asks for where a number does not fit.
const maxSeconds = 1 << 31

// A control is what the Cache-Control fields of a message say (RFC 9111 section
// 5.2), in seconds where it is a time. A value that is no number counts as 0:
// what cannot be read is stale (section 4.2.1). Of a directive that comes twice
// the smaller value holds.
type control struct {
	set directive
	// given says that a field was there at all.
	given bool

	maxAge, sMaxAge, minFresh, staleWhileRevalidate, staleIfError int64
	// maxStale is maxSeconds where it has no value.
	maxStale int64
}

func (c *control) has(d directive) bool { return c.set&d != 0 }

// emptyControl is that of a message without the field.
var emptyControl = control{maxAge: absent, sMaxAge: absent, minFresh: absent, staleWhileRevalidate: absent, staleIfError: absent, maxStale: absent}

// parseControl reads all Cache-Control fields of a header.
func parseControl(h *exchange.Header) control {
	c := emptyControl
	for i := range h.Len() {
		if f := h.At(i); f.ID == exchange.CacheControl {
			c.given = true
			c.add(f.Value)
		}
	}
	return c
}

// add reads one field value: a list of names, each with an optional value that
// is a token or a quoted string.
func (c *control) add(s string) {
	for s != "" {
		s = strings.TrimLeft(s, " \t,")
		end := strings.IndexAny(s, "=,")
		if end < 0 {
			c.directive(s, "", false)
			return
		}
		name := s[:end]
		if s[end] == ',' {
			c.directive(name, "", false)
			s = s[end+1:]
			continue
		}
		value, rest := directiveValue(s[end+1:])
		c.directive(name, value, true)
		s = rest
	}
}

// directiveValue cuts the value of a directive off: a quoted string as it is
// meant, or what stands before the next comma.
func directiveValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ",")
		return value, rest
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			behind, after, _ := strings.Cut(s[i+1:], ",")
			// What follows the string makes it something else, which is no number.
			return b.String() + strings.TrimRight(behind, " \t"), after
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), "" // never closed
}

// directive notes one directive. White space around "=" is not allowed (RFC
// 9111 section 5.2) and spoils a number; white space behind is the list's.
func (c *control) directive(name, value string, valued bool) {
	if !valued {
		name = strings.TrimRight(name, " \t")
	} else {
		value = strings.TrimRight(value, " \t")
	}
	spaced := strings.TrimRight(name, " \t")
	seconds := func(at *int64) {
		n := deltaSeconds(value)
		if spaced != name {
			n = 0
		}
		if *at == absent || n < *at {
			*at = n
		}
	}
	switch {
	case exchange.EqualFold(spaced, "no-store"):
		c.set |= noStore
	case exchange.EqualFold(spaced, "no-cache"):
		c.set |= noCache
	case exchange.EqualFold(spaced, "private"):
		c.set |= private
	case exchange.EqualFold(spaced, "public"):
		c.set |= public
	case exchange.EqualFold(spaced, "must-revalidate"):
		c.set |= mustRevalidate
	case exchange.EqualFold(spaced, "proxy-revalidate"):
		c.set |= proxyRevalidate
	case exchange.EqualFold(spaced, "only-if-cached"):
		c.set |= onlyIfCached
	case exchange.EqualFold(spaced, "must-understand"):
		c.set |= mustUnderstand
	case exchange.EqualFold(spaced, "max-age"):
		seconds(&c.maxAge)
	case exchange.EqualFold(spaced, "s-maxage"):
		seconds(&c.sMaxAge)
	case exchange.EqualFold(spaced, "min-fresh"):
		seconds(&c.minFresh)
	case exchange.EqualFold(spaced, "stale-while-revalidate"):
		seconds(&c.staleWhileRevalidate)
	case exchange.EqualFold(spaced, "stale-if-error"):
		seconds(&c.staleIfError)
	case exchange.EqualFold(spaced, "max-stale"):
		if !valued {
			value = "2147483648"
		}
		seconds(&c.maxStale)
	}
}

// deltaSeconds reads a number of seconds (RFC 9111 section 1.2.2), 0 for what
// is none.
func deltaSeconds(s string) int64 {
	if s == "" {
		return 0
	}
	var n int64
	for i := 0; i < len(s); i++ {
		d := s[i] - '0'
		if d > 9 {
			return 0
		}
		n = min(n*10+int64(d), maxSeconds)
	}
	return n
}

// span makes a duration of seconds that fit one.
func span(seconds int64) time.Duration {
	return time.Duration(min(seconds, math.MaxInt64/int64(time.Second))) * time.Second
}
