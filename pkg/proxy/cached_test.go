package proxy

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/config"
	"sallyport/pkg/stage"
)

const cachedRules = `
rules:
  - name: web
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
    cache: { ttl: 1m, max_body: 100KB }
`

// cached compiles rules with their stages.
func cached(t testing.TB, yaml string) *Settings {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte("version: 1\n" + yaml)}})
	if err != nil {
		t.Fatal(err)
	}
	s := settings(t, yaml)
	if s.Pipelines, err = stage.New(stage.Options{}).Pipelines(c, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// eachProtocol runs a test with an upstream and a client of either version.
func eachProtocol(t *testing.T, h http.HandlerFunc, f func(t *testing.T, g *gate, s *site, get func(path string, fields ...string) reply)) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, cachedRules, nil)
			g.p.Apply(cached(t, cachedRules))
			s := g.speaking("api.example.com", h, protocol)
			client := g.client(s, "api.example.com")
			f(t, g, s, func(path string, fields ...string) reply {
				t.Helper()
				method := http.MethodGet
				if before, after, ok := strings.Cut(path, " "); ok {
					method, path = before, after
				}
				req, err := http.NewRequestWithContext(t.Context(), method, "https://api.example.com"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, field := range fields {
					name, value, _ := strings.Cut(field, ": ")
					req.Header.Set(name, value)
				}
				r := fetch(client, req)
				if r.err != nil {
					t.Fatal(r.err)
				}
				return r
			})
		})
	}
}

func TestCacheAnswers(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("ETag", `"1"`)
		switch {
		case r.URL.Path == "/confirmed":
			w.Header().Set("Cache-Control", "no-cache")
			if r.Header.Get("If-None-Match") == `"1"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		case r.URL.Path == "/large":
			io.WriteString(w, strings.Repeat("large", 100_000))
		case r.URL.Path == "/trailers":
			// Not announced.
			io.WriteString(w, "with ")
			w.(http.Flusher).Flush()
			w.Header().Set(http.TrailerPrefix+"X-End", "1")
		case r.URL.Path == "/chunked":
			io.WriteString(w, "chu")
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, "body of "+r.URL.Path)
	}, func(t *testing.T, g *gate, s *site, get func(string, ...string) reply) {
		for i, test := range []struct {
			path   string
			fields string
			status int
			cache  string
			text   string
			hits   int64
		}{
			{"/a", "", 200, "Miss", "body of /a", 1},
			{"/a", "", 200, "Hit", "body of /a", 1},
			{"HEAD /a", "", 200, "Hit", "", 1},
			{"/a", `If-None-Match: "1"`, 304, "Hit", "", 1},
			{"/a", "Range: bytes=0-1", 200, "Bypass", "body of /a", 2},
			{"/chunked", "", 200, "Miss", "chubody of /chunked", 3},
			{"/chunked", "", 200, "Hit", "chubody of /chunked", 3},
			{"/confirmed", "", 200, "Miss", "body of /confirmed", 4},
			{"/confirmed", "", 200, "Refresh", "body of /confirmed", 5},
			{"/confirmed", `If-None-Match: "1"`, 304, "Refresh", "", 6},
			{"/large", "", 200, "Miss", strings.Repeat("large", 100_000) + "body of /large", 7},
			{"/large", "", 200, "Miss", strings.Repeat("large", 100_000) + "body of /large", 8},
			{"POST /a", "", 200, "Bypass", "body of /a", 9},
			{"/a", "Cache-Control: only-if-cached", 504, "Miss", `{"error":`, 9},
			{"/a", "", 200, "Miss", "body of /a", 10},
			{"/trailers", "", 200, "Miss", "with body of /trailers", 11},
			{"/trailers", "", 200, "Miss", "with body of /trailers", 12},
		} {
			var fields []string
			if test.fields != "" {
				fields = append(fields, test.fields)
			}
			r := get(test.path, fields...)
			if r.StatusCode != test.status || r.Header.Get("X-Cache-Status") != test.cache || !strings.HasPrefix(r.text, test.text) || test.text == "" && r.text != "" || s.reqs.Load() != test.hits {
				t.Errorf("%d. %s %s: %d %q, %d bytes, %d requests upstream", i+1, test.path, test.fields, r.StatusCode, r.Header.Get("X-Cache-Status"), len(r.text), s.reqs.Load())
			}
			if e := g.event(audit.Exchange, i+1); e.Cache != strings.ToLower(test.cache) || e.Verdict != "allow" {
				t.Errorf("%d. %+v", i+1, e)
			}
		}
	})
}

// What is stale and may be served meanwhile is asked for again behind the
// client's back, once.
func TestCacheAsksAgainApart(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	// What is asked for again once, by the version of HTTP.
	again := map[string]*atomic.Bool{"HTTP/1.1": {}, "HTTP/2.0": {}}
	answer := map[string]chan struct{}{"HTTP/1.1": make(chan struct{}), "HTTP/2.0": make(chan struct{})}
	eachProtocol(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=1, stale-while-revalidate=60")
		switch {
		case r.URL.Path == "/answer":
			close(answer[r.Proto])
		case r.URL.Path == "/later" && r.Header.Get("X-First") == "":
			// Slow, and no more to be stored.
			select {
			case <-answer[r.Proto]:
			case <-r.Context().Done():
				return
			}
			w.Header().Set("Cache-Control", "no-store")
			io.WriteString(w, strings.Repeat("x", 1<<20))
		case r.URL.Path == "/a" && again[r.Proto].Swap(true):
			// Fresh for as long as the test may take.
			w.Header().Set("Cache-Control", "max-age=60")
		}
		fmt.Fprint(w, n.Add(1))
	}, func(t *testing.T, g *gate, s *site, get func(string, ...string) reply) {
		first := get("/a")
		time.Sleep(1100 * time.Millisecond)
		stale := get("/a")
		if stale.text != first.text || stale.Header.Get("X-Cache-Status") != "Hit" || stale.Header.Get("Age") == "0" {
			t.Errorf("%q, then %q, %v", first.text, stale.text, stale.Header)
		}
		var again audit.Event
		until(t, "it is asked again", func() bool {
			for _, e := range g.log.all(audit.Exchange) {
				if e.Message != "" {
					again = e
				}
			}
			return again.Message != ""
		})
		if again.Cache != "refresh" || again.HTTP.Status != 200 || again.HTTP.Path != "/a" || again.Rule != "web" || again.Workload.Name == "" || again.Verdict != "allow" || again.Upstream.IP.String() != "127.0.0.1" {
			t.Errorf("%+v", again)
		}
		if r := get("/a"); r.text == first.text || r.Header.Get("X-Cache-Status") != "Hit" || s.reqs.Load() != 2 {
			t.Errorf("%q %v, %d requests upstream", r.text, r.Header, s.reqs.Load())
		}
		// A slow upstream makes nobody wait, and what is not wanted is not read.
		get("/later", "X-First: 1")
		time.Sleep(1100 * time.Millisecond)
		for range 5 {
			if r := get("/later"); r.Header.Get("X-Cache-Status") != "Hit" {
				t.Errorf("%v", r.Header)
			}
		}
		get("/answer")
		until(t, "it is given up", func() bool { return g.p.repeats.Load() == 0 })
		if got := s.reqs.Load(); got != 5 {
			t.Errorf("%d requests upstream", got)
		}
		if r := get("/a"); r.StatusCode != 200 {
			t.Errorf("%+v", r)
		}
	})
}

// An upstream that is away is stood in for as long as it allowed that.
func TestCacheStandsIn(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=0, stale-if-error=60")
		if r.Header.Get("X-Fail") != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, "text")
	}, func(t *testing.T, g *gate, s *site, get func(string, ...string) reply) {
		get("/a")
		g.event(audit.Exchange, 1) // those of one connection of HTTP/2 end in any order
		if r := get("/a", "X-Fail: 1"); r.StatusCode != 200 || r.text != "text" || r.Header.Get("X-Cache-Status") != "Hit" {
			t.Errorf("%d %q %v", r.StatusCode, r.text, r.Header)
		}
		if e := g.event(audit.Exchange, 2); e.Verdict != "allow" || !strings.Contains(e.Message, "503") || e.Cache != "hit" {
			t.Errorf("%+v", e)
		}
		if r := get("/other", "X-Fail: 1"); r.StatusCode != 503 {
			t.Errorf("%d", r.StatusCode)
		}
	})
}

// A reload keeps what the same text of the rule has stored, and nothing else.
func TestCacheOutlivesReloads(t *testing.T) {
	t.Parallel()
	g := newGate(t, cachedRules, nil)
	set := stage.New(stage.Options{})
	apply := func(yaml string) {
		c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte("version: 1\n" + yaml)}})
		if err != nil {
			t.Fatal(err)
		}
		s := settings(t, yaml)
		if s.Pipelines, err = set.Pipelines(c, nil); err != nil {
			t.Fatal(err)
		}
		g.p.Apply(s)
	}
	apply(cachedRules)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "text")
	}, "http/1.1")
	client := g.client(s, "api.example.com")
	get := func(want string) {
		t.Helper()
		r := fetch(client, must(http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com/", nil)))
		if r.err != nil || r.Header.Get("X-Cache-Status") != want {
			t.Errorf("%v %v, want %s", r.err, r.Header, want)
		}
	}
	get("Miss")
	get("Hit")
	apply(cachedRules)
	get("Hit")
	apply(strings.Replace(cachedRules, "100KB", "90KB", 1))
	get("Miss")
	get("Hit")
	if entries, bytes := set.Purge("web"); entries != 1 || bytes < 100 {
		t.Errorf("%d entries, %d bytes", entries, bytes)
	}
	get("Miss")
	apply(strings.Replace(cachedRules, "cache:", "x-cache:", 1)[:strings.Index(cachedRules, "    cache:")])
	get("")
	if entries, _ := set.Purge(""); entries != 0 {
		t.Errorf("%d entries of a rule without a cache", entries)
	}
}

func must(r *http.Request, err error) *http.Request {
	if err != nil {
		panic(err)
	}
	return r
}

// Requests are repeated apart within bounds of everybody and of each workload.
func TestRepeatsAreBounded(t *testing.T) {
	p := new(Proxy)
	one, two, three := &conn{p: p, share: new(share)}, &conn{p: p, share: new(share)}, &conn{p: p, share: new(share)}
	taken := func(c *conn) (n int) {
		for c.takeRepeat() {
			n++
		}
		return n
	}
	if a, b, c := taken(one), taken(two), taken(three); a != maxRepeats/2 || b != maxRepeats/2 || c != 0 {
		t.Errorf("%d, %d, %d", a, b, c)
	}
	one.giveRepeat()
	if a, c := taken(two), taken(three); a != 0 || c != 1 {
		t.Errorf("then %d, %d", a, c)
	}
	if p.repeats.Load() != maxRepeats || one.share.repeats.Load() != maxRepeats/2-1 || three.share.repeats.Load() != 1 {
		t.Errorf("%d, %d, %d are counted", p.repeats.Load(), one.share.repeats.Load(), three.share.repeats.Load())
	}
}

// What is asked for behind an answer passes all that an answer passes: a body
// that grows over the rule's bound when it is decompressed is not stored, and
// what is, is recorded.
func TestCacheAsksAgainThroughAllStages(t *testing.T) {
	t.Parallel()
	rules := strings.Replace(cachedRules, "cache:", `size_limit: { response: 1KB }
    log: { response_body: true }
    content_filter: [ { name: words, pattern: badword, in: response, action: redact } ]
    cache:`, 1)
	g := newGate(t, rules, nil)
	g.p.Apply(cached(t, rules))
	zip := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, text)
		z.Close()
		return b.Bytes()
	}
	var n atomic.Int64
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=1, stale-while-revalidate=60")
		w.Header().Set("Content-Encoding", "gzip")
		switch n.Add(1) {
		case 1:
			w.Write(zip("first"))
		case 2:
			w.Write(zip("second badword"))
		default:
			w.Write(zip(strings.Repeat("x", 100_000)))
		}
	}, "http/1.1")
	client := g.client(s, "api.example.com")
	get := func() reply {
		return fetch(client, must(http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com/", nil)))
	}
	if r := get(); r.err != nil || r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	again := func(want int) (e audit.Event) {
		time.Sleep(1100 * time.Millisecond)
		get()
		until(t, "it is asked again", func() bool { return n.Load() >= int64(want) && g.p.repeats.Load() == 0 })
		for _, x := range g.log.all(audit.Exchange) {
			if x.Cache == "refresh" {
				e = x
			}
		}
		return e
	}
	if e := again(2); !strings.Contains(e.HTTP.ResponseBody, "second") || strings.Contains(e.HTTP.ResponseBody, "badword") {
		t.Errorf("recorded %q", e.HTTP.ResponseBody)
	}
	if r := get(); !strings.Contains(r.text, "second") || strings.Contains(r.text, "badword") || r.Header.Get("X-Cache-Status") != "Hit" {
		t.Errorf("%q %v", r.text, r.Header)
	}
	if e := again(3); e.Verdict != "deny" || e.Reason != "response_too_large" {
		t.Errorf("%+v", e)
	}
	if r := get(); len(r.text) > 1000 {
		t.Errorf("%d bytes of what is over the bound", len(r.text))
	}
}
