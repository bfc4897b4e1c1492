package e2e

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

const limitRules = `
rules:
  - { name: one, match: { hosts: [api.example.com], paths: [/one/**] }, action: allow, rate_limit: { day: %d } }
  - { name: two, match: { hosts: [api.example.com], paths: [/two/**] }, action: allow, rate_limit: [ { hour: 5000 }, { day: 100, by: rule } ] }
  - { name: told, match: { hosts: [api.example.com], paths: [/told/**] }, action: allow, rate_limit: { minute: 3, hour: 50 } }
  - { name: hidden, match: { hosts: [api.example.com], paths: [/hidden/**] }, action: allow, rate_limit: { hour: 1, hide_client_headers: true } }
  - { name: keyed, match: { hosts: [api.example.com], paths: [/keyed/**] }, action: allow, rate_limit: { hour: 2, by: "header:X-Api-Key" } }
  - { name: seen, mode: observe, match: { hosts: [api.example.com], paths: [/seen/**] }, action: allow, rate_limit: { hour: 2 } }
  - { name: filtered, match: { hosts: [api.example.com], paths: [/filtered/**] }, action: allow, rate_limit: { hour: 2 }, content_filter: [ { name: words, pattern: badword, in: request, action: block } ] }
  - { name: cached, match: { hosts: [api.example.com], paths: [/cached/**] }, action: allow, rate_limit: { hour: 2 }, cache: { content_types: [text/plain] } }
  - { name: paced, match: { hosts: [api.example.com], paths: [/paced/**] }, action: allow, throttle: { rate: 2r/s, burst: 3 } }
  - { name: strict, match: { hosts: [api.example.com], paths: [/strict/**] }, action: allow, throttle: { rate: 1r/m, status: 503 } }
`

// withinWindow waits for the next window of that length where the present one
// has less than left to go: what a test counts must not be in two.
func withinWindow(window, left time.Duration) {
	if rest := time.Until(time.Now().Truncate(window).Add(window)); rest < left {
		time.Sleep(rest + 100*time.Millisecond)
	}
}

var loadResult = regexp.MustCompile(`requests: (\d+) total.* (\d+) done.*\n.*status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx`)

// load has h2load ask n times from 64 clients, and gives how many answers there
// were of each kind.
func (h *host) load(n int, url string, options ...string) (ok, refused, failed int) {
	h.t.Helper()
	r := h.run(h.command(h.execBy(append(append([]string{"h2load", "-n", strconv.Itoa(n), "-c", "64"}, options...), url)...)...))
	m := loadResult.FindStringSubmatch(r.stdout)
	if m == nil || r.code != 0 {
		h.t.Fatalf("h2load: %v", r)
	}
	number := func(s string) int { v, _ := strconv.Atoi(s); return v }
	if number(m[2]) != n {
		h.t.Errorf("h2load %s: %d of %d answered: %v", url, number(m[2]), n, r)
	}
	return number(m[3]), number(m[4]), number(m[5])
}

// reached counts what the origin got below a path.
func (h *host) reached(prefix string) (n int) {
	for _, r := range h.net.seen() {
		if strings.HasPrefix(r.Path, prefix) {
			n++
		}
	}
	return n
}

// TestRateLimit: 64 clients at once get exactly the limit, over HTTP/1.1 and
// HTTP/2, also after a reload, after the worker was killed and after a restart.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	withinWindow(24*time.Hour, 5*time.Minute)
	h := newHost(t)
	rules := func(day int) string {
		return h.config("metrics: { listen: \"127.0.0.1:9595\" }\n" + fmt.Sprintf(limitRules, day))
	}
	d := h.startDaemon(rules(100))
	load := func(what, path string, want int, options ...string) {
		t.Helper()
		before := h.reached(path)
		ok, refused, failed := h.load(640, "https://api.example.com"+path, options...)
		if ok != want || refused != 640-want || failed != 0 || h.reached(path)-before != want {
			t.Errorf("%s: %d admitted, %d refused, %d failed, %d at the origin; want %d", what, ok, refused, failed, h.reached(path)-before, want)
		}
	}
	load("HTTP/1.1", "/one/x", 100, "--h1")
	load("HTTP/2, by rule", "/two/x", 100, "-m", "4")
	eventually(t, 5*time.Second, "1080 requests were refused", func() bool { return h.scrape("sallyport_rate_limited_total") == 2*540 })
	h.write(daemonConfig, rules(150))
	if r := h.run(h.sallyport("reload", "--config", daemonConfig)); r.code != 0 {
		t.Fatalf("reload: %v", r)
	}
	load("50 more after a reload", "/one/x", 50)
	h.countersWritten(func() { h.curls("https://api.example.com/told/x") })
	old := h.role("worker")
	h.kill(old, unix.SIGKILL)
	eventually(t, 10*time.Second, "a new worker", func() bool { return h.role("worker") != old })
	load("after the worker was killed", "/one/x", 0)
	d.stop()
	h.startDaemon(rules(160))
	load("10 more after a restart", "/one/x", 10, "--h1")
	load("by rule, after a restart", "/two/x", 0)
}

// countersWritten has something counted, and waits until a snapshot of the counters
// is written: whatever was counted before is in it.
func (h *host) countersWritten(count func()) {
	h.t.Helper()
	begin := time.Now()
	count()
	eventually(h.t, 10*time.Second, "the counters are written", func() bool {
		info, err := os.Stat(h.path("/var/lib/sallyport/counters"))
		return err == nil && info.ModTime().After(begin)
	})
}

// curlLines runs curl for each line and gives the parts that it writes.
const curlFields = `%{http_code}|%header{x-sallyport-reason}|%header{retry-after}|%header{ratelimit-limit}|%header{ratelimit-remaining}|%header{ratelimit-reset}|%header{x-ratelimit-limit-minute}|%header{x-ratelimit-remaining-minute}|%header{x-ratelimit-limit-hour}|%header{x-ratelimit-remaining-hour}\n`

// curls asks in order, and gives for each the fields.
func (h *host) curls(lines ...string) (answers [][]string) {
	h.t.Helper()
	var script strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&script, "curl -s -o /dev/null -w '%s' %s\n", curlFields, l)
	}
	h.write("/srv/curls.sh", script.String())
	r := h.run(h.command(h.execBy("bash", "/srv/curls.sh")...))
	for line := range strings.Lines(r.stdout) {
		answers = append(answers, strings.Split(strings.TrimSpace(line), "|"))
	}
	if len(answers) != len(lines) {
		h.t.Fatalf("%d answers for %d questions: %v", len(answers), len(lines), r)
	}
	return answers
}

// TestRateLimitTold: what a client sees of limits, and what counts.
func TestRateLimitTold(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=600")
		fmt.Fprint(w, "from the origin")
	})
	h.startDaemon(h.config(fmt.Sprintf(limitRules, 100)))
	withinWindow(time.Hour, 2*time.Minute)
	withinWindow(time.Minute, 20*time.Second)
	url := func(path string) string { return "https://api.example.com/" + path + "/x" }
	codes := func(answers [][]string) (all string) {
		for _, a := range answers {
			all += a[0] + " "
		}
		return strings.TrimSpace(all)
	}
	for i, a := range h.curls(url("told"), url("told"), url("told"), url("told"), "--http1.1 "+url("told")) {
		left := max(0, 2-i)
		reset, _ := strconv.Atoi(a[5])
		want := []string{"200", "", "", "3", strconv.Itoa(left), a[5], "3", strconv.Itoa(left), "50", strconv.Itoa(49 - min(i, 2))}
		if i > 2 {
			want[0], want[1], want[2] = "429", "rate_limited", a[5]
		}
		if strings.Join(a, "|") != strings.Join(want, "|") || reset < 1 || reset > 60 {
			t.Errorf("request %d: %q, want %q", i, a, want)
		}
	}
	e := h.waitAudit("a refusal", func(e *audit.Event) bool { return e.Reason == "rate_limited" && e.Rule == "told" })
	if e.Verdict != "deny" || !strings.Contains(e.Message, "rate_limit.minute") || e.HTTP.Status != 429 {
		t.Errorf("event %+v", e)
	}
	if a := h.curls(url("hidden"), url("hidden")); strings.Join(a[0], "") != "200" || codes(a) != "200 429" || a[1][2] == "" || strings.Join(a[1][3:], "") != "" {
		t.Errorf("hidden: %q", a)
	}
	if got := codes(h.curls("-H X-Api-Key:a "+url("keyed"), "-H X-Api-Key:a "+url("keyed"), "-H X-Api-Key:a "+url("keyed"), "-H X-Api-Key:b "+url("keyed"), url("keyed"))); got != "200 200 429 200 200" {
		t.Errorf("by header: %s", got)
	}
	// In observe mode nothing is refused or told, and the third would have been.
	a := h.curls(url("seen"), url("seen"), url("seen"))
	if codes(a) != "200 200 200" || a[0][3] != "" {
		t.Errorf("observe: %q", a)
	}
	e = h.waitAudit("would deny", func(e *audit.Event) bool { return e.Verdict == "would_deny" && e.Rule == "seen" })
	if e.Reason != "rate_limited" {
		t.Errorf("observe: %+v", e)
	}
	// What a later stage refuses, and what the cache answers, does not count.
	bad := "-d badword " + url("filtered")
	if got := codes(h.curls(bad, url("filtered"), bad, bad, url("filtered"), bad, url("filtered"))); got != "400 200 400 400 200 429 429" {
		t.Errorf("filtered: %s", got)
	}
	hit := h.curls(url("cached"), url("cached"), url("cached"), url("cached"), url("cached"))
	if codes(hit) != "200 200 200 200 200" || hit[4][9] != "1" {
		t.Errorf("cached: %q", hit)
	}
}

// TestThrottle: requests ahead of the rate are delayed, those beyond the burst
// refused.
func TestThrottle(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(fmt.Sprintf(limitRules, 100)))
	begin := time.Now()
	r := h.run(h.command(h.execBy("curl", "-s", "-Z", "--parallel-max", "6", "-o", "/dev/null", "-w", "%{http_code} %{time_total}\n", "https://api.example.com/paced/[1-6]")...))
	took := time.Since(begin)
	var times []time.Time
	var queued []time.Duration
	eventually(t, 5*time.Second, "six events", func() bool {
		times, queued = nil, nil
		for _, e := range h.auditOf(audit.Exchange) {
			if e.Rule != "paced" {
				continue
			}
			times = append(times, e.Time)
			if e.Reason == "" {
				queued = append(queued, e.Duration.Queued)
			} else if e.Reason != "throttled" {
				t.Errorf("event %+v", e)
			}
		}
		return len(times) == 6
	})
	slices.SortFunc(times, time.Time.Compare)
	slices.Sort(queued)
	// One and the burst, and one more for each half second over which a slow machine
	// has spread them.
	spread := times[5].Sub(times[0])
	most := 4 + int(spread/(500*time.Millisecond))
	ok, refused := strings.Count(r.stdout, "200 "), strings.Count(r.stdout, "429 ")
	if ok < 4 || ok > most || ok+refused != 6 || ok != len(queued) {
		t.Errorf("%d passed, %d refused, want 4 to %d: %v", ok, refused, most, r)
	}
	// The n-th goes on n half seconds after the first.
	if took < time.Duration(ok-1)*500*time.Millisecond {
		t.Errorf("%d passed in %s", ok, took)
	}
	const exact = 50 * time.Millisecond
	for i, q := range queued {
		if least := time.Duration(i)*500*time.Millisecond - spread - exact; q < least {
			t.Errorf("queued %v within %s, want 0, 0.5, 1 and 1.5 s", queued, spread)
			break
		}
	}
	a := h.curls("https://api.example.com/strict/1", "https://api.example.com/strict/2")
	if retry, err := strconv.Atoi(a[1][2]); a[0][0] != "200" || a[1][0] != "503" || a[1][1] != "throttled" || err != nil || retry < 1 || retry > 63 {
		t.Errorf("strict: %q", a)
	}
}

const sharedRules = `
redis: { address: "%s", timeout: 10s }
rules:
  - { name: exact, match: { hosts: [api.example.com], paths: [/exact/**] }, action: allow, rate_limit: { day: 300, policy: redis } }
  - { name: outage, match: { hosts: [api.example.com], paths: [/outage/**] }, action: allow, rate_limit: { hour: 120, by: rule, policy: redis } }
  - { name: again, match: { hosts: [api.example.com], paths: [/again/**] }, action: allow, rate_limit: { hour: 120, by: rule, policy: redis } }
  - { name: strict, match: { hosts: [api.example.com], paths: [/strict/**] }, action: allow, rate_limit: { hour: 1000, policy: redis, fault_tolerant: false } }
`

// TestRateLimitShared: three daemons that share a Redis admit exactly the limit
// together. Without it each admits at most the limit less what it saw last, and
// when it is back, with nothing, no more in that window; what begins then is exact.
func TestRateLimitShared(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	hosts := make([]*host, 3)
	for i := range hosts {
		hosts[i] = newHost(t)
		hosts[i].startDaemon(hosts[i].config(fmt.Sprintf(sharedRules, r.plug(hosts[i]))))
	}
	// loads has all hosts ask at the same time, and gives how many each admitted.
	loads := func(n int, path string, options ...string) (admitted []int, all int) {
		t.Helper()
		admitted = make([]int, len(hosts))
		var wg sync.WaitGroup
		for i, h := range hosts {
			wg.Go(func() {
				ok, _, failed := h.load(n, "https://api.example.com"+path, options...)
				if failed > 0 {
					t.Errorf("host %d: %d failed", i, failed)
				}
				admitted[i] = ok
			})
		}
		wg.Wait()
		for _, n := range admitted {
			all += n
		}
		return admitted, all
	}
	back := func(n int) {
		t.Helper()
		for _, h := range hosts {
			eventually(t, 20*time.Second, "redis is back", func() bool {
				seen := 0
				for _, e := range h.auditOf(audit.Lifecycle) {
					if strings.HasPrefix(e.Message, "redis ") && strings.HasSuffix(e.Message, " is back") {
						seen++
					}
				}
				return seen >= n
			})
		}
	}
	withinWindow(time.Hour, 3*time.Minute)
	if each, all := loads(300, "/exact/1"); all != 300 {
		t.Errorf("HTTP/2: %v admitted, together %d, want 300", each, all)
	}
	if each, all := loads(300, "/exact/1", "--h1"); all != 0 {
		t.Errorf("HTTP/1.1: %v admitted of nothing", each)
	}

	const limit = 120
	seen := make([]int, len(hosts))
	total := 0
	for i, h := range hosts {
		r := h.run(h.command(h.execBy("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\n", fmt.Sprintf("https://api.example.com/outage/[1-%d]", 10*(i+1)))...))
		total += strings.Count(r.stdout, "200\n")
		seen[i] = total
	}
	if total != 60 {
		t.Fatalf("%d of 60 before the outage", total)
	}
	r.stop()
	without, _ := loads(200, "/outage/2")
	strict := hosts[0].curls("https://api.example.com/strict/1")[0]
	if strict[0] != "503" || strict[1] != "limiter_unavailable" || strict[2] == "" {
		t.Errorf("strict, without Redis: %q", strict)
	}
	r.start()
	back(1)
	after, _ := loads(200, "/outage/3")
	for i := range hosts {
		if without[i] != limit-seen[i] || after[i] != 0 {
			t.Errorf("host %d saw %d of %d: admitted %d without Redis and %d after", i, seen[i], limit, without[i], after[i])
		}
	}
	if strict := hosts[0].curls("https://api.example.com/strict/1")[0]; strict[0] != "200" {
		t.Errorf("strict, with Redis: %q", strict)
	}
	if each, all := loads(200, "/again/1"); all != limit {
		t.Errorf("what began after the outage: %v admitted, together %d, want %d", each, all, limit)
	}
}
