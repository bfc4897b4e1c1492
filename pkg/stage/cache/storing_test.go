package cache

import (
	"strings"
	"testing"
	"time"

	"sallyport/pkg/config"
)

// RFC 9111 section 3, and what a rule's keys add: which responses serve the next
// request for the same.
func TestStoring(t *testing.T) {
	yes, no := true, false
	none := func(*config.RuleCache) {}
	force := func(c *config.RuleCache) { c.Force = true }
	for _, test := range []struct {
		name    string
		rule    func(*config.RuleCache)
		request []string
		answer  answer
		want    bool
	}{
		{"states nothing: ttl", none, nil, ok("x"), yes},
		{"max-age", none, nil, ok("x", "Cache-Control: max-age=60"), yes},
		{"s-maxage", none, nil, ok("x", "Cache-Control: s-maxage=60"), yes},
		{"s-maxage goes before max-age", none, nil, ok("x", "Cache-Control: s-maxage=0, max-age=60"), no},
		{"max-age=0", none, nil, ok("x", "Cache-Control: max-age=0"), no},
		{"no-store", none, nil, ok("x", "Cache-Control: no-store, max-age=60"), no},
		{"private", none, nil, ok("x", "Cache-Control: private, max-age=60"), no},
		{"private with names", none, nil, ok("x", `Cache-Control: private="x-a", max-age=60`), no},
		{"no-cache", none, nil, ok("x", "Cache-Control: no-cache, max-age=60"), no},
		{"must-revalidate", none, nil, ok("x", "Cache-Control: must-revalidate, max-age=60"), yes},
		{"Expires", none, nil, ok("x", "Expires: Wed, 15 Nov 2023 22:13:20 GMT"), yes},
		{"Expires in the past", none, nil, ok("x", "Expires: Mon, 13 Nov 2023 22:13:20 GMT"), no},
		{"Expires: 0", none, nil, ok("x", "Expires: 0"), no},
		{"max-age goes before Expires", none, nil, ok("x", "Cache-Control: max-age=60", "Expires: 0"), yes},
		{"Age over max-age", none, nil, ok("x", "Cache-Control: max-age=60", "Age: 61"), no},
		{"Age below max-age", none, nil, ok("x", "Cache-Control: max-age=60", "Age: 58"), yes},
		{"Age that is no number", none, nil, ok("x", "Cache-Control: max-age=60", "Age: soon"), yes},
		{"Set-Cookie", none, nil, ok("x", "Cache-Control: max-age=60", "Set-Cookie: a=b"), no},
		{"Set-Cookie2", none, nil, ok("x", "Cache-Control: max-age=60", "Set-Cookie2: a=b"), no},
		{"must-understand", none, nil, ok("x", "Cache-Control: max-age=60, must-understand"), yes},
		{"must-understand, no-store", none, nil, ok("x", "Cache-Control: max-age=60, must-understand, no-store"), no},
		{"must-understand what nobody knows", func(c *config.RuleCache) { c.Statuses = []int{599} }, nil, answer{status: 599, body: "x", fields: []string{"Cache-Control: max-age=60, must-understand"}}, no},
		{"Authorization", none, []string{"Authorization: Bearer a"}, ok("x", "Cache-Control: max-age=60"), no},
		{"Authorization, public", none, []string{"Authorization: Bearer a"}, ok("x", "Cache-Control: max-age=60, public"), yes},
		{"Authorization, s-maxage", none, []string{"Authorization: Bearer a"}, ok("x", "Cache-Control: s-maxage=60"), yes},
		{"Authorization, must-revalidate", none, []string{"Authorization: Bearer a"}, ok("x", "Cache-Control: max-age=60, must-revalidate"), yes},
		{"Cookie", none, []string{"Cookie: a=b"}, ok("x", "Cache-Control: max-age=60"), yes},
		{"Vary: *", none, nil, ok("x", "Cache-Control: max-age=60", "Vary: accept, *"), no},
		{"redirect", none, nil, answer{status: 301, fields: []string{"Location: /b"}}, yes},
		{"a status not listed", none, nil, answer{status: 404, body: "x", fields: []string{"Cache-Control: max-age=60"}}, no},
		{"a status listed", func(c *config.RuleCache) { c.Statuses = []int{404} }, nil, answer{status: 404, body: "x"}, yes},
		{"206 although listed", func(c *config.RuleCache) { c.Statuses = []int{206} }, nil, answer{status: 206, body: "x", fields: []string{"Content-Range: bytes 0-0/2", "Cache-Control: max-age=60"}}, no},
		{"a type not listed", none, nil, ok("x", "Content-Type: text/html", "Cache-Control: max-age=60"), no},
		{"a type with parameters", none, nil, ok("x", "Content-Type: Application/JSON; charset=utf-8"), yes},
		{"a listed parameter", func(c *config.RuleCache) { c.ContentTypes = []string{"text/plain; charset=utf-8"} }, nil, ok("x", "Content-Type: text/plain;charset=UTF-8"), yes},
		{"another parameter", func(c *config.RuleCache) { c.ContentTypes = []string{"text/plain; charset=utf-8"} }, nil, ok("x", "Content-Type: text/plain; charset=latin1"), no},
		{"no listed type", func(c *config.RuleCache) { c.ContentTypes = nil }, nil, ok("x", "Content-Type: image/png"), yes},
		{"an event stream", func(c *config.RuleCache) { c.ContentTypes = nil }, nil, ok("x", "Content-Type: text/event-stream", "Cache-Control: max-age=60"), no},
		{"chunked", none, nil, answer{status: 200, body: strings.Repeat("x", 50_000), chunked: true}, yes},
		{"too large", func(c *config.RuleCache) { c.MaxBody = 10 }, nil, ok("12345678901"), no},
		{"large enough", func(c *config.RuleCache) { c.MaxBody = 10 }, nil, ok("1234567890"), yes},
		{"chunked and too large", func(c *config.RuleCache) { c.MaxBody = 10 }, nil, answer{status: 200, body: "12345678901", chunked: true}, no},
		{"cut", none, nil, answer{status: 200, body: "xxx", cut: true}, no},
		{"chunked and cut", none, nil, answer{status: 200, body: "xxx", chunked: true, cut: true}, no},
		{"with trailers", none, nil, answer{status: 200, body: "xxx", chunked: true, trailer: "1"}, no},
		{"with trailers announced", none, nil, answer{status: 200, body: "xxx", chunked: true, fields: []string{"Trailer: X-End"}}, no},
		{"an empty body", none, nil, answer{status: 200, fields: []string{"Content-Type: text/plain"}}, yes},
		{"force: max-age=0", force, nil, ok("x", "Cache-Control: max-age=0"), yes},
		{"force: no-cache", force, nil, ok("x", "Cache-Control: no-cache"), yes},
		{"force: Expires", force, nil, ok("x", "Expires: 0"), yes},
		{"force: Age", force, nil, ok("x", "Age: 4000"), yes},
		{"force: no-store", force, nil, ok("x", "Cache-Control: no-store"), no},
		{"force: private", force, nil, ok("x", "Cache-Control: private"), no},
		{"force: Set-Cookie", force, nil, ok("x", "Set-Cookie: a=b"), no},
		{"force: Authorization", force, []string{"Authorization: Bearer a"}, ok("x"), no},
		{"force: Authorization, public", force, []string{"Authorization: Bearer a"}, ok("x", "Cache-Control: public, max-age=0"), no},
		{"GET is not listed", func(c *config.RuleCache) { c.Methods = []string{"HEAD"} }, nil, ok("x"), no},
	} {
		t.Run(test.name, func(t *testing.T) {
			rule := defaults()
			test.rule(&rule)
			w := newWorld(t, rule)
			w.says(test.answer)
			first := w.do("GET /a?b", test.request...)
			if first.text != test.answer.body && !test.answer.cut || (first.err != nil) != test.answer.cut {
				t.Errorf("the first client got %d bytes, %v", len(first.text), first.err)
			}
			w.sleep(time.Second)
			second := w.do("GET /a?b", test.request...)
			if got := second.cache == "Hit"; got != test.want || got != (w.hits == 1) {
				t.Fatalf("%q, %d hits at the origin", second.cache, w.hits)
			}
			if test.want && (second.text != test.answer.body || second.Status != test.answer.status) {
				t.Errorf("served %d, %d bytes, %v", second.Status, len(second.text), second.err)
			}
			if used := w.store.Used(); !test.want && len(w.store.shares) == 0 && used != 0 || w.store.filling != 0 {
				t.Errorf("%d bytes in use, %d on their way", used, w.store.filling)
			}
		})
	}
}

// What is the same to the cache and what is not.
func TestKeys(t *testing.T) {
	for _, test := range []struct {
		name   string
		second string
		change func(*world)
		fields []string
		want   bool
	}{
		{"the same", "GET /a?b", nil, nil, true},
		{"HEAD of it", "HEAD /a?b", nil, nil, true},
		{"another path", "GET /A?b", nil, nil, false},
		{"another query", "GET /a?B", nil, nil, false},
		{"no query", "GET /a", nil, nil, false},
		{"an empty query", "GET /a?", nil, nil, false},
		{"another credential", "GET /a?b", nil, []string{"Authorization: Bearer b"}, false},
		{"a cookie", "GET /a?b", nil, []string{"Cookie: a"}, false},
		{"a key", "GET /a?b", nil, []string{"PRIVATE-TOKEN: a"}, false},
		{"a harmless field", "GET /a?b", nil, []string{"User-Agent: x", "Accept-Language: de"}, true},
		{"another text of the rule", "GET /a?b", func(w *world) {
			w.stage = New(w.store, "read", &w.rule, Print{digestOf([]byte("new"))})
			w.stage.now = w.now
			w.pipeline = nil
		}, nil, false},
		{"another rule", "GET /a?b", func(w *world) { w.use("other", w.rule) }, nil, false},
		{"observed", "GET /a?b", func(w *world) { w.observe = true }, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, defaults())
			w.says(ok("x"))
			w.do("GET /a?b")
			if test.change != nil {
				test.change(w)
				if w.pipeline == nil {
					w.pipeline = pipelineOf(w.stage)
				}
			}
			if r := w.do(test.second, test.fields...); (r.cache == "Hit") != test.want {
				t.Errorf("%q", r.cache)
			}
		})
	}
	// The parts of the subject.
	for name, change := range map[string]func(*reply){
		"workload": func(r *reply) { r.x.Subject.Workload = "v" },
		"host":     func(r *reply) { r.x.Subject.Host = "b.example.com" },
		"scheme":   func(r *reply) { r.x.Subject.Scheme = "http" },
		"port":     func(r *reply) { r.x.Subject.Port = 8443 },
	} {
		w := newWorld(t, defaults())
		w.says(ok("x"))
		w.do("GET /a")
		r := reply{x: w.exchangeFor("GET /a")}
		change(&r)
		if got := w.run(t.Context(), r.x); got.cache != "Miss" {
			t.Errorf("another %s: %q", name, got.cache)
		}
	}
}

// What a hit looks like.
func TestHit(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("hello", "Cache-Control: max-age=60", "Age: 5", "X-One: 1", "x-one: 2", "X-Cache-Status: Hit", "Connection: x"))
	w.want(w.do("GET /a"), "Miss", 1)
	w.sleep(10 * time.Second)
	r := w.do("GET /a")
	w.want(r, "Hit", 1)
	var got []string
	for name, value := range r.Header.All() {
		got = append(got, name+": "+value)
	}
	want := "Cache-Control: max-age=60|X-One: 1|x-one: 2|Date: Tue, 14 Nov 2023 22:13:20 GMT|Content-Type: text/plain|Content-Length: 5|Age: 15|X-Cache-Status: Hit"
	if strings.Join(got, "|") != want || r.Status != 200 || r.Length != 5 {
		t.Errorf("%d, %d bytes\n got %s\nwant %s", r.Status, r.Length, strings.Join(got, "|"), want)
	}
	h := w.do("HEAD /a")
	if w.want(h, "Hit", 1); h.Body != nil || h.Length != 5 {
		t.Errorf("HEAD: %+v", h.Response)
	}
	w.sleep(46 * time.Second)
	w.want(w.do("GET /a"), "Refresh", 2)
}

func TestHeadOnly(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("hello", "Cache-Control: max-age=60", "Content-Type: text/plain"))
	w.want(w.do("HEAD /a"), "Miss", 1)
	r := w.do("HEAD /a")
	if w.want(r, "Hit", 1); r.Length != 5 || r.Body != nil {
		t.Errorf("%+v", r.Response)
	}
	w.want(w.do("GET /a"), "Miss", 2)
	w.want(w.do("GET /a"), "Hit", 2)
	w.want(w.do("HEAD /a"), "Hit", 2)
}
