package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// A library is an origin that counts what is asked of it, by path, and speaks
// HTTP/2 on 8444 beside HTTP/1.1 on 443.
type library struct {
	*host
	mu   sync.Mutex
	hits map[string]int
	// slow holds answers to /slow back while it is set.
	slow  sync.WaitGroup
	stale atomic.Bool
}

func newLibrary(t *testing.T) *library {
	l := &library{host: newHost(t), hits: map[string]int{}}
	// Who only asks what it speaks says nothing.
	web := &http.Server{Handler: http.HandlerFunc(l.answer), ErrorLog: log.New(io.Discard, "", 0)}
	inNetns(t, l.net.ns, func() {
		go web.Serve(tls.NewListener(l.net.listen(":8444"), &tls.Config{GetCertificate: l.net.ca.Certificate, NextProtos: []string{"h2", "http/1.1"}}))
	})
	t.Cleanup(func() { web.Close() })
	l.net.setHandler(l.answer)
	return l
}

func (l *library) answer(w http.ResponseWriter, r *http.Request) {
	key := r.Host + r.URL.Path
	l.mu.Lock()
	l.hits[key]++
	n := l.hits[key]
	l.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Cache-Control", "max-age=600")
	switch r.URL.Path {
	case "/slow":
		l.slow.Wait()
	case "/private":
		w.Header().Set("Cache-Control", "private, max-age=600")
	case "/vary":
		w.Header().Set("Vary", "Accept-Language")
		io.WriteString(w, r.Header.Get("Accept-Language")+" ")
	case "/stale":
		w.Header().Set("Cache-Control", "max-age=1, stale-while-revalidate=600, stale-if-error=600")
		if l.stale.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	case "/tag":
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", `"one"`)
		if r.Header.Get("If-None-Match") == `"one"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	case "/large":
		io.WriteString(w, strings.Repeat("a page of text\n", 200_000))
	}
	fmt.Fprintf(w, "answer %d", n)
}

func (l *library) asked(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hits[key]
}

const libraryRules = `
workloads:
  one: {}
  two: {}
rules:
  - name: read
    match: { hosts: [api.example.com], methods: [GET, HEAD] }
    action: allow
    cache: { ttl: 5m, max_body: 100KB }
  - name: write
    match: { hosts: [api.example.com] }
    action: allow
`

// ask runs curl as a workload and gives status, X-Cache-Status and body.
func (l *library) ask(workload string, args ...string) string {
	l.t.Helper()
	argv := []string{l.binary, "exec", "--config", daemonConfig, "--workload", workload, "--", "curl", "-sS", "--max-time", "20", "-w", "|%{http_code} %header{x-cache-status}"}
	r := l.run(l.command(append(argv, args...)...))
	if r.code != 0 {
		l.t.Fatalf("curl %v: %v", args, r)
	}
	body, tail, _ := strings.Cut(r.stdout, "|")
	if len(body) > 100 {
		body = fmt.Sprintf("%d bytes", len(body))
	}
	return tail + ": " + body
}

func (l *library) wants(got, want string) {
	l.t.Helper()
	if got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
}

// TestCache: with curl, in both versions of HTTP.
func TestCache(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	l.startDaemon(l.config(libraryRules))
	for _, v := range []struct{ version, base, host string }{
		{"--http1.1", "https://api.example.com", "api.example.com"},
		{"--http2", "https://api.example.com:8444", "api.example.com:8444"},
	} {
		get := func(path string, args ...string) string {
			t.Helper()
			return l.ask("one", append(args, v.version, v.base+path)...)
		}
		l.wants(get("/a"), "200 Miss: answer 1")
		l.wants(get("/a"), "200 Hit: answer 1")
		l.wants(get("/a", "-I"), "200 Hit: "+lastOf(get("/a", "-I")))
		l.wants(get("/a?q"), "200 Miss: answer 2")
		l.wants(l.ask("two", v.version, v.base+"/a"), "200 Miss: answer 3") // nobody else's
		l.wants(get("/a", "-H", "Cache-Control: no-cache"), "200 Refresh: answer 4")
		l.wants(get("/a"), "200 Hit: answer 4")
		// Another rule lets the change through.
		l.wants(get("/a", "-X", "POST"), "200 : answer 5")
		l.wants(get("/a"), "200 Miss: answer 6")
		l.wants(l.ask("two", v.version, v.base+"/a"), "200 Hit: answer 3")
		l.wants(get("/private"), "200 Miss: answer 1")
		l.wants(get("/private"), "200 Miss: answer 2")
		l.wants(get("/vary", "-H", "Accept-Language: de"), "200 Miss: de answer 1")
		l.wants(get("/vary", "-H", "Accept-Language: en"), "200 Miss: en answer 2")
		l.wants(get("/vary", "-H", "Accept-Language: de"), "200 Hit: de answer 1")
		l.wants(get("/tag"), "200 Miss: answer 1")
		l.wants(get("/tag"), "200 Refresh: answer 1")
		l.wants(get("/tag", "-H", `If-None-Match: "one"`), "304 Refresh: ")
		l.wants(get("/large"), "200 Miss: 3000008 bytes")
		l.wants(get("/large"), "200 Miss: 3000008 bytes")
		l.wants(get("/a", "-H", "Range: bytes=0-1"), "200 Bypass: answer 7")
		if e := l.waitAudit("a hit", func(e *audit.Event) bool { return e.Cache == "hit" && e.HTTP.Path == "/a" }); e.Upstream.Attempts != 0 || e.Rule != "read" || e.HTTP.Status != 200 {
			t.Errorf("%+v", e)
		}
		// What is stale is served while somebody asks, and where nobody answers.
		l.wants(get("/stale"), "200 Miss: answer 1")
		time.Sleep(1100 * time.Millisecond)
		l.wants(get("/stale"), "200 Hit: answer 1")
		eventually(t, 20*time.Second, "it is asked again", func() bool { return l.asked(v.host+"/stale") == 2 })
		l.waitAudit("what was asked again", func(e *audit.Event) bool {
			return e.Cache == "refresh" && e.HTTP.Path == "/stale" && (e.Dst.Port == 8444) == strings.HasSuffix(v.base, ":8444") && strings.Contains(e.Message, "stale") && e.Workload.Name == "one" && e.Verdict == "allow"
		})
		l.stale.Store(true)
		l.wants(get("/stale"), "200 Hit: answer 2")
		time.Sleep(1100 * time.Millisecond)
		for range 3 {
			l.wants(get("/stale"), "200 Hit: answer 2")
		}
		l.wants(get("/stale", "-H", "Cache-Control: max-age=0"), "200 Hit: answer 2")
		l.stale.Store(false)
	}
	page := l.metricsPage()
	for _, want := range []string{`sallyport_cache_requests_total{status="hit"}`, `sallyport_cache_requests_total{status="refresh"}`, `sallyport_resource_capacity{resource="cache_bytes"} 6.4e+07`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

// lastOf gives what follows the first ": " of an answer.
func lastOf(s string) string {
	_, rest, _ := strings.Cut(s, ": ")
	return rest
}

// TestCacheCollapses: a hundred requests at once, of Node's fetch and of curl,
// are one request at the origin.
func TestCacheCollapses(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	l.startDaemon(l.config(libraryRules))
	for host, argv := range map[string][]string{
		"api.example.com": {"node", "-e", `
			Promise.all(Array.from({length: 100}, () => fetch('https://api.example.com/slow').then(r => r.text().then(t => r.headers.get('x-cache-status') + ' ' + t))))
			.then(all => console.log(all.join('\n')))`},
		"api.example.com:8444": {"curl", "-sS", "--http2", "--parallel", "--parallel-immediate", "--parallel-max", "100", "-w", "%header{x-cache-status} %{http_version}\n", "-o", "/dev/null", "https://api.example.com:8444/slow?[1-100]"},
	} {
		l.slow.Add(1)
		c := l.command(l.execBy(argv...)...)
		if argv[0] == "curl" {
			// The same a hundred times, not a hundred queries.
			url := "https://api.example.com:8444/slow"
			args := argv[:len(argv)-3]
			for range 100 {
				args = append(args, "-o", "/dev/null", url)
			}
			c = l.command(l.execBy(args...)...)
		}
		done := make(chan result, 1)
		go func() { done <- l.run(c) }()
		eventually(t, time.Minute, "the origin is asked", func() bool { return l.asked(host+"/slow") == 1 })
		time.Sleep(time.Second)
		l.slow.Done()
		r := <-done
		hits, misses := strings.Count(r.stdout, "Hit "), strings.Count(r.stdout, "Miss ")
		if hits != 99 || misses != 1 || l.asked(host+"/slow") != 1 {
			t.Errorf("%s: %d hits, %d misses, %d requests at the origin: %v", host, hits, misses, l.asked(host+"/slow"), r)
		}
	}
}

// TestCachePurge: the command, and what a reload keeps.
func TestCachePurge(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	conf := l.config(libraryRules)
	l.startDaemon(conf)
	purge := func(want int, args ...string) {
		t.Helper()
		r := l.run(l.sallyport(append([]string{"cache", "purge", "--json", "--config", daemonConfig}, args...)...))
		var got struct{ Entries, Bytes int }
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Entries != want || (got.Bytes > 0) != (want > 0) || r.code != 0 {
			t.Errorf("cache purge %v: %v", args, r)
		}
	}
	purge(0)
	l.ask("one", "https://api.example.com/a")
	l.ask("two", "https://api.example.com/a")
	l.ask("one", "https://api.example.com/b")
	if r := l.run(l.sallyport("reload", "--config", daemonConfig)); r.code != 0 {
		t.Fatalf("%v", r)
	}
	l.wants(l.ask("one", "https://api.example.com/a"), "200 Hit: answer 1")
	purge(0, "--rule", "write")
	purge(3, "--rule", "read")
	l.wants(l.ask("one", "https://api.example.com/a"), "200 Miss: answer 3")
	if r := l.run(l.sallyport("cache", "purge", "--rule", "reed", "--config", daemonConfig)); r.code == 0 || !strings.Contains(r.stderr, `no rule is called "reed"`) {
		t.Errorf("%v", r)
	}
	if r := l.run(l.sallyport("cache", "purge", "--config", daemonConfig)); r.code != 0 || !strings.HasPrefix(r.stdout, "purged: 1 responses, ") {
		t.Errorf("%v", r)
	}
	l.waitAudit("who purged", func(e *audit.Event) bool {
		return e.Kind == audit.Admin && strings.HasPrefix(e.Message, "cache purge of rule read: 3 responses")
	})
	// Another text of the rule is another cache.
	l.ask("one", "https://api.example.com/a")
	l.write(daemonConfig, strings.Replace(conf, "ttl: 5m", "ttl: 6m", 1))
	if r := l.run(l.sallyport("reload", "--config", daemonConfig)); r.code != 0 {
		t.Fatalf("%v", r)
	}
	if got := l.ask("one", "https://api.example.com/a"); !strings.HasPrefix(got, "200 Miss") {
		t.Errorf("after another text of the rule: %s", got)
	}
	// A workload may not ask for it.
	if r := l.run(l.command(l.execBy(l.binary, "cache", "purge", "--config", daemonConfig)...)); r.code == 0 {
		t.Errorf("a workload purged: %v", r)
	}
}
