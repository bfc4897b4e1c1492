package cache

import (
	"testing"

	"sallyport/pkg/exchange"
)

func controlOf(values ...string) control {
	var h exchange.Header
	for _, v := range values {
		h.Add("Cache-Control", v)
	}
	return parseControl(&h)
}

func TestParseControl(t *testing.T) {
	with := func(change func(*control)) control {
		c := emptyControl
		c.given = true
		change(&c)
		return c
	}
	for _, test := range []struct {
		in   []string
		want control
	}{
		{nil, emptyControl},
		{[]string{""}, with(func(c *control) {})},
		{[]string{"no-store"}, with(func(c *control) { c.set = noStore })},
		{[]string{"No-Store , ,PRIVATE"}, with(func(c *control) { c.set = noStore | private })},
		{[]string{"public", "must-revalidate"}, with(func(c *control) { c.set = public | mustRevalidate })},
		{[]string{"max-age=60"}, with(func(c *control) { c.maxAge = 60 })},
		{[]string{`max-age="60"`}, with(func(c *control) { c.maxAge = 60 })},
		{[]string{`max-age="60"x, public`}, with(func(c *control) { c.maxAge, c.set = 0, public })},
		{[]string{"max-age=60 , public"}, with(func(c *control) { c.maxAge, c.set = 60, public })},
		{[]string{"max-age = 60"}, with(func(c *control) { c.maxAge = 0 })},
		{[]string{"max-age=-1"}, with(func(c *control) { c.maxAge = 0 })},
		{[]string{"max-age=1.5"}, with(func(c *control) { c.maxAge = 0 })},
		{[]string{"max-age=0x10"}, with(func(c *control) { c.maxAge = 0 })},
		{[]string{"max-age"}, with(func(c *control) { c.maxAge = 0 })},
		{[]string{"max-age="}, with(func(c *control) { c.maxAge = 0 })},
		{[]string{"max-age=60, max-age=10"}, with(func(c *control) { c.maxAge = 10 })},
		{[]string{"max-age=10", "max-age=60"}, with(func(c *control) { c.maxAge = 10 })},
		{[]string{"max-age=99999999999999999999999"}, with(func(c *control) { c.maxAge = maxSeconds })},
		{[]string{"s-maxage=5, stale-while-revalidate=6, stale-if-error=7, min-fresh=8"}, with(func(c *control) {
			c.sMaxAge, c.staleWhileRevalidate, c.staleIfError, c.minFresh = 5, 6, 7, 8
		})},
		{[]string{"max-stale"}, with(func(c *control) { c.maxStale = maxSeconds })},
		{[]string{"max-stale=3"}, with(func(c *control) { c.maxStale = 3 })},
		{[]string{`private="a, b", max-age=3`}, with(func(c *control) { c.set, c.maxAge = private, 3 })},
		{[]string{`no-cache="set-cookie`}, with(func(c *control) { c.set = noCache })},
		{[]string{`x="no-store, max-age=1", max-age=2`}, with(func(c *control) { c.maxAge = 2 })},
		{[]string{`x="a\"b, no-store", y`}, with(func(c *control) {})},
		{[]string{"only-if-cached, proxy-revalidate, xmax-age=4, max-agex=4"}, with(func(c *control) { c.set = onlyIfCached | proxyRevalidate })},
	} {
		if got := controlOf(test.in...); got != test.want {
			t.Errorf("%q:\n got %+v\nwant %+v", test.in, got, test.want)
		}
	}
}

// What a hostile upstream writes neither breaks the parser nor gives a time
// that is negative or too long; what it repeats never lives longer.
func FuzzParseControl(f *testing.F) {
	for _, s := range []string{"max-age=60, public", `no-cache="a\"b", s-maxage="7"`, "max-stale", ",,=,=\"", "max-age=9999999999999999999"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		one, both := controlOf(a), controlOf(a, b)
		if both.set&one.set != one.set {
			t.Errorf("%q is lost beside %q", a, b)
		}
		for _, p := range [][2]int64{
			{one.maxAge, both.maxAge}, {one.sMaxAge, both.sMaxAge}, {one.minFresh, both.minFresh},
			{one.staleWhileRevalidate, both.staleWhileRevalidate}, {one.staleIfError, both.staleIfError}, {one.maxStale, both.maxStale},
		} {
			if p[0] < absent || p[0] > maxSeconds || p[0] != absent && (p[1] > p[0] || p[1] == absent) {
				t.Errorf("%q, %q: %d then %d", a, b, p[0], p[1])
			}
			if span(p[0]) < -1e9 {
				t.Errorf("span of %d", p[0])
			}
		}
	})
}
