package cache

import (
	"strings"
	"testing"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

func pipelineOf(s *Stage) *exchange.Pipeline { return exchange.NewPipeline(s) }

// RFC 9111 section 5.2.1: what a request wants of what is stored. It was stored
// with max-age=60 and is as old as said.
func TestRequestDirectives(t *testing.T) {
	for _, test := range []struct {
		age    int
		stated string
		fields string
		want   string
	}{
		{10, "max-age=60", "", "Hit"},
		{61, "max-age=60", "", "Refresh"},
		{10, "max-age=60", "Cache-Control: no-cache", "Refresh"},
		{10, "max-age=60", "Pragma: no-cache", "Refresh"},
		{10, "max-age=60", "Pragma: no-cache|Cache-Control: max-age=30", "Hit"},
		{10, "max-age=60", "Cache-Control: no-store", "Bypass"},
		{10, "max-age=60", "Cache-Control: max-age=9", "Refresh"},
		{10, "max-age=60", "Cache-Control: max-age=0", "Refresh"},
		{10, "max-age=60", "Cache-Control: max-age=11", "Hit"},
		{10, "max-age=60", "Cache-Control: min-fresh=50", "Hit"},
		{10, "max-age=60", "Cache-Control: min-fresh=51", "Refresh"},
		{70, "max-age=60", "Cache-Control: max-stale", "Hit"},
		{70, "max-age=60", "Cache-Control: max-stale=10", "Hit"},
		{70, "max-age=60", "Cache-Control: max-stale=9", "Refresh"},
		{70, "max-age=60", "Cache-Control: max-stale=20, max-age=50", "Refresh"},
		{70, "max-age=60, must-revalidate", "Cache-Control: max-stale", "Refresh"},
		{70, "max-age=60, proxy-revalidate", "Cache-Control: max-stale", "Refresh"},
		{70, "s-maxage=60", "Cache-Control: max-stale", "Refresh"},
		{10, "max-age=60", "Cache-Control: only-if-cached", "Hit"},
		{10, "max-age=60", "Range: bytes=0-1", "Bypass"},
		{10, "max-age=60", "If-Match: \"a\"", "Bypass"},
		{10, "max-age=60", "If-Unmodified-Since: Wed, 15 Nov 2023 22:13:20 GMT", "Bypass"},
	} {
		w := newWorld(t, defaults())
		w.says(ok("x", "Cache-Control: "+test.stated))
		w.do("GET /a")
		w.sleep(time.Duration(test.age) * time.Second)
		var fields []string
		if test.fields != "" {
			fields = strings.Split(test.fields, "|")
		}
		if r := w.do("GET /a", fields...); r.cache != test.want || r.text != "x" || (w.hits == 1) != (test.want == "Hit") {
			t.Errorf("%s after %d s, %s: %q %q, %d hits", test.stated, test.age, test.fields, r.cache, r.text, w.hits)
		}
	}
}

func TestOnlyIfCached(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("x"))
	r := w.do("GET /a", "Cache-Control: only-if-cached")
	if w.want(r, "Miss", 0); r.Status != 504 || !strings.Contains(r.text, "only-if-cached") {
		t.Errorf("%d %q", r.Status, r.text)
	}
	r = w.do("GET /a", "Cache-Control: only-if-cached", "Range: bytes=0-1")
	if w.want(r, "Bypass", 0); r.Status != 504 {
		t.Errorf("%d %q", r.Status, r.text)
	}
}

// What is not looked up at all.
func TestBypass(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("x"))
	w.do("GET /a")
	with := func(change func(*exchange.Request)) reply {
		x := w.exchangeFor("GET /a")
		change(&x.Request)
		return w.run(t.Context(), x)
	}
	w.want(with(func(r *exchange.Request) { r.Body, r.Length = exchange.NewBytes([]byte("q")), 1 }), "Bypass", 2)
	if r := with(func(r *exchange.Request) { r.Upgrade = "websocket" }); r.cache != "" || r.record != exchange.CacheBypass || w.hits != 3 {
		t.Errorf("%q, %v, %d hits", r.cache, r.record, w.hits)
	}
	w.want(w.do("OPTIONS /a"), "Bypass", 4)
	w.want(w.do("GET /a"), "Hit", 4)
}

// RFC 9111 section 4.3.2: conditions of clients on what is fresh.
func TestClientConditions(t *testing.T) {
	for _, test := range []struct {
		stored []string
		fields []string
		want   int
	}{
		{[]string{`ETag: "a"`}, []string{`If-None-Match: "a"`}, 304},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: W/"a"`}, 304},
		{[]string{`ETag: W/"a"`}, []string{`If-None-Match: "a"`}, 304},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: "b" ,"a"`}, 304},
		{[]string{`ETag: "a,b"`}, []string{`If-None-Match: "c", "a,b"`}, 304},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: "b"`, `If-None-Match: "a"`}, 304},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: *`}, 304},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: "b"`}, 200},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: a`}, 200},
		{[]string{`ETag: a`}, []string{`If-None-Match: a`}, 304},
		{[]string{`ETag: a`}, []string{`If-None-Match: "a"`}, 200},
		{[]string{"ETag: \"\xfc\""}, []string{"If-None-Match: \"\xfc\""}, 304},
		{[]string{`ETag: "a"`}, []string{`If-None-Match: "a`}, 200},
		{[]string{}, []string{`If-None-Match: ""`}, 200},
		{[]string{`ETag: "a"`, "Last-Modified: Mon, 13 Nov 2023 22:13:20 GMT"}, []string{`If-None-Match: "b"`, "If-Modified-Since: Mon, 13 Nov 2023 22:13:20 GMT"}, 200},
		{[]string{"Last-Modified: Mon, 13 Nov 2023 22:13:20 GMT"}, []string{"If-Modified-Since: Mon, 13 Nov 2023 22:13:20 GMT"}, 304},
		{[]string{"Last-Modified: Mon, 13 Nov 2023 22:13:20 GMT"}, []string{"If-Modified-Since: Mon, 13 Nov 2023 22:13:21 GMT"}, 304},
		{[]string{"Last-Modified: Mon, 13 Nov 2023 22:13:20 GMT"}, []string{"If-Modified-Since: Mon, 13 Nov 2023 22:13:19 GMT"}, 200},
		{[]string{"Last-Modified: Mon, 13 Nov 2023 22:13:20 GMT"}, []string{"If-Modified-Since: yesterday"}, 200},
		{[]string{}, []string{"If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT"}, 304}, // by Date
		{[]string{}, []string{"If-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT"}, 200},
	} {
		w := newWorld(t, defaults())
		w.says(ok("x", append(test.stored, "Cache-Control: max-age=60", "X-Kept: 1")...))
		w.do("GET /a")
		r := w.do("GET /a", test.fields...)
		w.want(r, "Hit", 1)
		if r.Status != test.want || (r.text == "x") != (test.want == 200) {
			t.Errorf("%q, %q: %d %q", test.stored, test.fields, r.Status, r.text)
		}
		if r.Status == 304 && (r.Header.Has("Content-Type") || r.Header.Has("Content-Length") || !r.Header.Has("Date") || !r.Header.Has("Cache-Control") || r.Header.Get("X-Kept") != "1") {
			t.Errorf("304 with %v", r.Header)
		}
	}
}

// RFC 9111 section 4.3: what is stale is confirmed, and merged with what confirms
// it.
func TestConfirming(t *testing.T) {
	w := newWorld(t, defaults())
	answers := []answer{
		ok("one", `ETag: "1"`, "Last-Modified: Mon, 13 Nov 2023 22:13:20 GMT", "Cache-Control: max-age=60", "X-A: old", "X-B: kept", "Content-Encoding: x"),
		{status: 304, fields: []string{`ETag: "1"`, "Cache-Control: max-age=120", "X-A: new", "X-C: added", "Content-Encoding: y", "Content-Length: 999", "Set-Cookie: s=1"}},
	}
	w.origin = func(*exchange.Request) answer { return answers[w.hits-1] }
	w.want(w.do("GET /a"), "Miss", 1)
	w.sleep(70 * time.Second)
	r := w.do("GET /a", `If-None-Match: "client"`)
	w.want(r, "Refresh", 2)
	if v := w.last.Header; v.Get("If-None-Match") != `"1"` || v.Get("If-Modified-Since") != "Mon, 13 Nov 2023 22:13:20 GMT" {
		t.Errorf("asked with %v", v)
	}
	if r.Status != 200 || r.text != "one" || r.Header.Get("X-A") != "new" || r.Header.Get("X-B") != "kept" || r.Header.Get("X-C") != "added" ||
		r.Header.Get("Content-Encoding") != "x" || r.Header.Get("Content-Length") != "3" || r.Header.Get("Set-Cookie") != "s=1" || r.Header.Get("Age") != "0" {
		t.Errorf("%d %q %v", r.Status, r.text, r.Header)
	}
	w.sleep(110 * time.Second) // the new lifetime holds
	r = w.do("GET /a")
	if w.want(r, "Hit", 2); r.text != "one" || r.Header.Has("Set-Cookie") || r.Header.Get("X-A") != "new" || r.Header.Get("Age") != "110" {
		t.Errorf("%q %v", r.text, r.Header)
	}
}

func TestConfirmingOtherwise(t *testing.T) {
	for _, test := range []struct {
		name   string
		fields []string
		second answer
		status int
		text   string
		third  string // how a third request is served
	}{
		{"changed", nil, ok("two", `ETag: "2"`, "Cache-Control: max-age=60"), 200, "two", "Hit"},
		{"the client has it already", []string{`If-None-Match: "1"`}, answer{status: 304, fields: []string{"Cache-Control: max-age=60"}}, 304, "", "Hit"},
		{"not to be stored any more", nil, ok("two", "Cache-Control: no-store"), 200, "two", "Miss"},
		{"confirmed, not to be stored any more", nil, answer{status: 304, fields: []string{"Cache-Control: no-store"}}, 200, "one", "Miss"},
		{"gone", nil, answer{status: 410, body: "gone"}, 410, "gone", "Miss"},
		{"forbidden", nil, answer{status: 403, body: "no"}, 403, "no", "Refresh"},
		{"broken", nil, answer{status: 500, body: "no"}, 500, "no", "Refresh"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, defaults())
			answers := []answer{ok("one", `ETag: "1"`, "Cache-Control: max-age=60"), test.second, ok("three")}
			w.origin = func(*exchange.Request) answer { return answers[w.hits-1] }
			w.do("GET /a")
			w.sleep(61 * time.Second)
			r := w.do("GET /a", test.fields...)
			if w.want(r, "Refresh", 2); r.Status != test.status || r.text != test.text {
				t.Errorf("%d %q", r.Status, r.text)
			}
			if r := w.do("GET /a"); r.cache != test.third {
				t.Errorf("then %q", r.cache)
			}
		})
	}
}

// A condition of the client that nothing stored answers is the upstream's to
// judge, and its 304 the client's to have.
func TestConditionOfTheClientPasses(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(answer{status: 304, fields: []string{`ETag: "c"`}})
	r := w.do("GET /a", `If-None-Match: "c"`)
	if w.want(r, "Miss", 1); r.Status != 304 || w.last.Header.Get("If-None-Match") != `"c"` {
		t.Errorf("%d", r.Status)
	}
	w.says(ok("x"))
	w.want(w.do("GET /a"), "Miss", 2)
}

func TestNoCacheIsConfirmedEachTime(t *testing.T) {
	w := newWorld(t, defaults())
	w.origin = func(r *exchange.Request) answer {
		if r.Header.Get("If-None-Match") == `"1"` {
			return answer{status: 304}
		}
		return ok("one", `ETag: "1"`, "Cache-Control: no-cache")
	}
	w.want(w.do("GET /a"), "Miss", 1)
	for i := range 3 {
		if r := w.do("GET /a"); r.cache != "Refresh" || r.text != "one" || w.hits != i+2 {
			t.Errorf("%q %q, %d hits", r.cache, r.text, w.hits)
		}
	}
}

// RFC 9111 section 4.3.5.
func TestHeadConfirmsGet(t *testing.T) {
	for _, test := range []struct {
		head string
		want string
	}{{`"1"`, "Hit"}, {`"2"`, "Miss"}} {
		w := newWorld(t, defaults())
		tag := `"1"`
		w.origin = func(r *exchange.Request) answer {
			return ok("hello", "ETag: "+tag, "Cache-Control: max-age=60", "Content-Type: text/plain") // no 304
		}
		w.do("GET /a")
		w.sleep(61 * time.Second)
		tag = test.head
		w.want(w.do("HEAD /a"), "Refresh", 2)
		if r := w.do("GET /a"); r.cache != test.want {
			t.Errorf("%s: %q", tag, r.cache)
		}
	}
}

// RFC 9111 section 4.1.
func TestVary(t *testing.T) {
	w := newWorld(t, defaults())
	w.origin = func(r *exchange.Request) answer {
		return ok(r.Header.Get("Accept")+"/"+r.Header.Get("X-B"), "Cache-Control: max-age=60", "Vary: Accept", "Vary: x-b,")
	}
	for _, test := range []struct {
		fields []string
		cache  string
		text   string
	}{
		{nil, "Miss", "/"},
		{nil, "Hit", "/"},
		{[]string{"Accept: a"}, "Miss", "a/"},
		{[]string{"Accept: b"}, "Miss", "b/"},
		{[]string{"accept:  a"}, "Hit", "a/"},
		{[]string{"Accept: b"}, "Hit", "b/"},
		{[]string{"Accept: b", "X-B: 1, 2"}, "Miss", "b/1, 2"},
		{[]string{"Accept: b", "X-B: 1", "X-B: 2"}, "Hit", "b/1, 2"},
		{[]string{"Accept: b", "X-B: 1,2"}, "Hit", "b/1, 2"},
		{[]string{"Accept: b", "X-B: 12"}, "Miss", "b/12"},
		{[]string{"Accept: "}, "Miss", "/"},
		{nil, "Hit", "/"},
	} {
		for i := range test.fields {
			test.fields[i] = strings.Replace(test.fields[i], ":  ", ": ", 1)
		}
		if r := w.do("GET /a", test.fields...); r.cache != test.cache || r.text != test.text {
			t.Errorf("%q: %q %q", test.fields, r.cache, r.text)
		}
	}
	// No end of variants.
	for i := range 100 {
		w.do("GET /a", "Accept: "+strings.Repeat("z", i+2))
	}
	var key []byte
	key = appendKey(key, w.exchangeFor("GET /a"))
	if n := len(w.store.find(w.store.hash(key), key).list()); n != maxVariants {
		t.Errorf("%d variants", n)
	}
}

// RFC 9111 section 4.4.
func TestInvalidation(t *testing.T) {
	for _, test := range []struct {
		method string
		answer answer
		gone   bool // /a
		others bool // /b, which Location and Content-Location name
	}{
		{"POST", ok("done"), true, false},
		{"PUT", answer{status: 204}, true, false},
		{"DELETE", answer{status: 302}, true, false},
		{"PATCH", ok("x"), true, false},
		{"BREW", ok("x"), true, false},
		{"POST", answer{status: 404, body: "x"}, false, false},
		{"POST", answer{status: 500, body: "x"}, false, false},
		{"OPTIONS", ok("x"), false, false},
		{"POST", answer{status: 201, fields: []string{"Location: /b?c"}}, true, true},
		{"POST", ok("x", "Content-Location: b?c"), true, true},
		{"POST", ok("x", "Content-Location: https://API.example.com:443/b?c"), true, true},
		{"POST", ok("x", "Location: https://api.example.com/b?c"), true, true},
		{"POST", ok("x", "Location: http://api.example.com/b?c"), true, false},
		{"POST", ok("x", "Location: https://api.example.com:8443/b?c"), true, false},
		{"POST", ok("x", "Location: //other.example.com/b?c"), true, false},
		{"POST", ok("x", "Location: :// %"), true, false},
	} {
		for _, own := range []bool{true, false} {
			w := newWorld(t, defaults())
			w.says(ok("x"))
			w.do("GET /a")
			w.do("GET /b?c")
			w.says(test.answer)
			if own {
				w.do(test.method + " /a")
			} else {
				reading := w.pipeline
				w.pipeline = exchange.NewPipeline(NewInvalidator(w.store))
				if r := w.do(test.method + " /a"); r.cache != "" || r.record != exchange.NoCache {
					t.Errorf("%q, %v", r.cache, r.record)
				}
				w.pipeline = reading
			}
			w.says(ok("y"))
			if r := w.do("GET /a"); (r.cache == "Miss") != test.gone {
				t.Errorf("%s, %+v, own %t: /a %q", test.method, test.answer, own, r.cache)
			}
			if r := w.do("GET /b?c"); (r.cache == "Miss") != test.others {
				t.Errorf("%s, %+v, own %t: /b %q", test.method, test.answer, own, r.cache)
			}
		}
	}
}

// What was asked for before a change is not stored after it.
func TestInvalidationOfWhatIsOnItsWay(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("old"))
	x := w.exchangeFor("GET /a")
	w.pipeline.Request(t.Context(), x)
	w.roundTrip(x)
	w.do("POST /a")
	w.pipeline.Response(t.Context(), x)
	if text, err := drain(x.Response.Body); text != "old" || err != nil {
		t.Errorf("%q %v", text, err)
	}
	w.pipeline.End(x)
	w.want(w.do("GET /a"), "Miss", 3)
	if w.store.filling != 0 {
		t.Errorf("%d bytes on their way", w.store.filling)
	}
}

// RFC 5861 section 4, in the answer and in the request.
func TestStaleIfError(t *testing.T) {
	for _, test := range []struct {
		stated  string
		request string
		age     int
		status  int
		failure policy.Reason
		served  bool
	}{
		{"max-age=60, stale-if-error=100", "", 159, 503, 0, true},
		{"max-age=60, stale-if-error=100", "", 161, 503, 0, false},
		{"max-age=60, stale-if-error=100", "", 100, 500, 0, true},
		{"max-age=60, stale-if-error=100", "", 100, 501, 0, false},
		{"max-age=60, stale-if-error=100", "", 100, 404, 0, false},
		{"max-age=60, stale-if-error=100", "", 100, 0, policy.UpstreamUnreachable, true},
		{"max-age=60, stale-if-error=100", "", 100, 0, policy.UpstreamTimeout, true},
		{"max-age=60, stale-if-error=100", "", 100, 0, policy.NoHealthyTarget, true},
		{"max-age=60, stale-if-error=100", "", 100, 0, policy.UpstreamTLS, false},
		{"max-age=60, stale-if-error=100", "", 161, 0, policy.UpstreamUnreachable, false},
		{"max-age=60, stale-if-error=100", "Cache-Control: no-cache", 100, 503, 0, false},
		{"max-age=60", "", 61, 503, 0, false},
		{"max-age=60", "Cache-Control: stale-if-error=50", 100, 503, 0, true},
		{"max-age=60", "Cache-Control: stale-if-error=30", 100, 503, 0, false},
		{"max-age=60, must-revalidate, stale-if-error=100", "", 100, 503, 0, false},
		{"s-maxage=60, stale-if-error=100", "", 100, 503, 0, false},
		{"max-age=60, no-cache, stale-if-error=100", "", 10, 503, 0, false},
	} {
		w := newWorld(t, defaults())
		w.says(ok("stored", "Cache-Control: "+test.stated, `ETag: "1"`))
		w.do("GET /a")
		w.sleep(time.Duration(test.age) * time.Second)
		w.says(answer{status: test.status, body: "broken"})
		w.failure = test.failure
		var fields []string
		if test.request != "" {
			fields = append(fields, test.request)
		}
		r := w.do("GET /a", fields...)
		if served := r.refused == 0 && r.text == "stored" && r.Status == 200; served != test.served {
			t.Errorf("%+v: %d %q %v", test, r.Status, r.text, r.refused)
		} else if served && (r.cache != "Hit" || r.x.Record.Message == "") {
			t.Errorf("%+v: %q, %q", test, r.cache, r.x.Record.Message)
		}
	}
}

// RFC 5861 section 3.
func TestStaleWhileRevalidate(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("one", "Cache-Control: max-age=60, stale-while-revalidate=100", `ETag: "1"`))
	w.do("GET /a")
	w.sleep(159 * time.Second)
	w.says(ok("two", "Cache-Control: max-age=60, stale-while-revalidate=100", `ETag: "2"`))
	r := w.do("GET /a")
	if w.want(r, "Hit", 1); r.text != "one" || r.Header.Get("Age") != "159" {
		t.Errorf("%q %v", r.text, r.Header)
	}
	// Nobody else asks while somebody does.
	if again := w.do("GET /a"); again.repeat != nil || again.text != "one" {
		t.Error("two ask")
	}
	x := w.repeat(r)
	if w.last.Header.Get("If-None-Match") != `"1"` || x.Record.Cache != exchange.CacheRefresh || x.Record.Message == "" {
		t.Errorf("%v, %+v", w.last.Header, x.Record)
	}
	r = w.do("GET /a")
	if w.want(r, "Hit", 2); r.text != "two" || r.repeat != nil {
		t.Errorf("%q", r.text)
	}
	// Confirmed.
	w.sleep(61 * time.Second)
	w.says(answer{status: 304})
	w.repeat(w.do("GET /a"))
	w.want(w.do("GET /a"), "Hit", 3)
	// Past it everybody waits.
	w.sleep(161 * time.Second)
	w.says(ok("three"))
	if r := w.do("GET /a"); r.cache != "Refresh" || r.text != "three" {
		t.Errorf("%q %q", r.cache, r.text)
	}
}

// Where there is no room for asking again, the next request may.
func TestRepeatThatDoesNotHappen(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("one", "Cache-Control: max-age=60, stale-while-revalidate=100"))
	w.do("GET /a")
	w.sleep(61 * time.Second)
	r := w.do("GET /a")
	w.pipeline.End(r.x)
	w.repeat(w.do("GET /a"))
	if w.want(w.do("GET /a"), "Hit", 2); len(w.store.flights.open) != 0 {
		t.Errorf("%d flights", len(w.store.flights.open))
	}
}

func TestStaleWhileRevalidateIsForbidden(t *testing.T) {
	for _, stated := range []string{"max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60", "max-age=60, no-cache"} {
		w := newWorld(t, defaults())
		w.says(ok("one", "Cache-Control: stale-while-revalidate=100, "+stated, `ETag: "1"`))
		w.do("GET /a")
		w.sleep(61 * time.Second)
		w.want(w.do("GET /a"), "Refresh", 2)
	}
}
