package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/pkg/exchange"
)

// check looks at all that the store says of itself.
func (s *Store) check(t *testing.T) (entries int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	used := make(map[*share]int64)
	for i := range s.buckets {
		for r := s.buckets[i].first.Load(); r != nil; r = r.next.Load() {
			if len(r.list()) == 0 || len(r.list()) > maxVariants {
				t.Fatalf("%d variants", len(r.list()))
			}
			for _, e := range r.list() {
				if e.resource != r {
					t.Fatal("an entry of another resource")
				}
				used[e.share] += e.size
				entries++
			}
		}
	}
	var total, filling int64
	for name, sh := range s.shares {
		queued := int64(0)
		var last *entry
		for e := sh.oldest; e != nil; e = e.newer {
			if e.older != last {
				t.Fatal("the queue is broken")
			}
			last = e
			queued += e.size
		}
		if last != sh.newest || queued != used[sh] || sh.used != queued+sh.filling || sh.name != name {
			t.Fatalf("share %s: %d queued, %d stored, %d counted, %d on their way", name, queued, used[sh], sh.used, sh.filling)
		}
		delete(used, sh)
		if sh.used > s.max/2 {
			t.Fatalf("%s holds %d of %d", name, sh.used, s.max)
		}
		total += sh.used
		filling += sh.filling
	}
	if len(used) > 0 || total != s.used || filling != s.filling || total > s.max || filling > s.max/fillingAll {
		t.Fatalf("%d counted, %d stored of %d; %d on their way, %d counted; %d strangers", s.used, total, s.max, filling, s.filling, len(used))
	}
	return entries
}

// Whatever is done, the bounds hold and the figures are right.
func TestBounds(t *testing.T) {
	s := NewStore(1 << 20)
	r := rand.New(rand.NewPCG(1, 2))
	type open struct {
		workload string
		n        int64
	}
	var reserved []open
	for i := range 20_000 {
		w := fmt.Sprintf("w%d", r.IntN(5)*r.IntN(2))
		key := appendPart(nil, w+fmt.Sprint(r.IntN(3000)))
		hash := s.hash(key)
		switch r.IntN(10) {
		case 0:
			n := r.Int64N(100 << 10)
			if s.reserve(w, n) {
				reserved = append(reserved, open{w, n})
			}
		case 1:
			if len(reserved) > 0 {
				s.release(reserved[0].workload, reserved[0].n)
				reserved = reserved[1:]
			}
		case 2:
			s.invalidate(key)
		case 3:
			if i%500 == 0 {
				s.SetMax(1<<20 - r.Int64N(1<<19))
			}
		case 4:
			if e := s.find(hash, key).list(); len(e) > 0 {
				s.discard(e[0])
				s.discard(e[0])
			}
		default:
			e := newEntry(&exchange.Response{Status: 200})
			e.selection = selection{[]string{"a"}, []string{fmt.Sprint(r.IntN(20))}}
			e.hold(make([]byte, r.IntN(20<<10)))
			if r.IntN(3) == 0 {
				e.used.Store(true)
			}
			n := int64(0)
			if len(reserved) > 0 && reserved[0].workload == w {
				n, reserved = reserved[0].n, reserved[1:]
			}
			s.put(w, hash, key, e, n, s.bucket(hash).epoch.Load())
		}
		if i%100 == 0 {
			s.check(t)
		}
	}
	if s.check(t) == 0 {
		t.Error("nothing is stored")
	}
	for _, o := range reserved {
		s.release(o.workload, o.n)
	}
	s.Purge("")
	if n := s.check(t); n != 0 || s.Used() != 0 || len(s.shares) != 0 {
		t.Errorf("%d entries, %d bytes, %d shares are left", n, s.Used(), len(s.shares))
	}
}

// One workload takes at most half, and what another has stays.
func TestShares(t *testing.T) {
	s := NewStore(1 << 20)
	fill := func(w string, n int) {
		for i := range n {
			key := appendPart(nil, fmt.Sprint(w, i))
			e := newEntry(&exchange.Response{Status: 200})
			e.hold(make([]byte, 1000))
			s.put(w, s.hash(key), key, e, 0, 0)
		}
	}
	fill("small", 20)
	fill("large", 5000)
	if got := s.shares["large"].used; got > 1<<19 || got < 1<<19-4096 {
		t.Errorf("the large one has %d", got)
	}
	fill("larger", 5000)
	var n int
	for e := s.shares["small"].oldest; e != nil; e = e.newer {
		n++
	}
	if n != 20 || s.Used() < 1<<20-4096 {
		t.Errorf("the small one has %d; %d bytes in all", n, s.Used())
	}
	s.check(t)
}

// What is used stays when what is not must go.
func TestUsedStays(t *testing.T) {
	s := NewStore(1 << 20)
	keys := func(i int) []byte { return appendPart(nil, fmt.Sprint(i)) }
	put := func(i int) {
		e := newEntry(&exchange.Response{Status: 200})
		e.hold(make([]byte, 1000))
		s.put("w", s.hash(keys(i)), keys(i), e, 0, 0)
	}
	for i := range 100_000 {
		put(i)
		for hot := range 10 {
			if list := s.find(s.hash(keys(hot)), keys(hot)).list(); len(list) > 0 {
				list[0].used.Store(true)
			}
		}
	}
	for hot := range 10 {
		if s.find(s.hash(keys(hot)), keys(hot)) == nil {
			t.Errorf("%d is gone", hot)
		}
	}
}

// What entries are counted with is what they take.
func TestSizeIsHonest(t *testing.T) {
	for _, size := range []int{0, 1000, 10_000} {
		var before, after runtime.MemStats
		s := NewStore(1 << 30)
		runtime.GC()
		runtime.GC() // what pools held of other tests goes with the second
		runtime.ReadMemStats(&before)
		for i := range 3000 {
			key := appendPart(nil, fmt.Sprintf("a workload and a path %d", i))
			resp := exchange.Response{Status: 200}
			for j := range 10 {
				resp.Header.Add(fmt.Sprintf("X-Field-%d", j), strings.Repeat("v", 20))
			}
			e := newEntry(&resp)
			e.selection = selection{[]string{strings.Repeat("n", 8)}, []string{strings.Repeat("v", 9)}}
			e.size += e.selection.size()
			e.hold(make([]byte, size))
			s.put("w", s.hash(key), key, e, 0, 0)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		taken := int64(after.HeapAlloc - before.HeapAlloc)
		if ratio := float64(taken) / float64(s.Used()); ratio > 1.15 || ratio < 0.75 {
			t.Errorf("bodies of %d: %d bytes are taken, %d counted", size, taken/3000, s.Used()/3000)
		}
		runtime.KeepAlive(s)
	}
}

func TestPurgeAndKeep(t *testing.T) {
	w := newWorld(t, defaults())
	w.says(ok("x", "ETag: \"1\""))
	fill := func() {
		for _, rule := range []string{"a", "b"} {
			w.use(rule, w.rule)
			w.do("GET /1")
			w.do("GET /2")
		}
	}
	fill()
	if p := w.store.Purge("a"); p.Entries != 2 || p.Bytes < 1000 || p.Bytes != w.store.Used() {
		t.Errorf("%+v, %d", p, w.store.Used())
	}
	if p := w.store.Purge(""); p.Entries != 2 || w.store.Used() != 0 {
		t.Errorf("%+v", p)
	}
	fill()
	w.store.Keep(map[string]Print{"a": {digestOf([]byte("a"))}, "b": {digestOf([]byte("changed"))}})
	if p := w.store.Purge("b"); p.Entries != 0 {
		t.Errorf("%+v", p)
	}
	if p := w.store.Purge("a"); p.Entries != 2 {
		t.Errorf("%+v", p)
	}
}

// What is of no use any more goes by itself, what can be confirmed stays longer.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, defaults())
		w.stage.now = time.Now
		w.time = time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { w.store.Run(ctx) })
		w.says(ok("x", "Cache-Control: max-age=60"))
		w.do("GET /plain")
		w.says(ok("x", "Cache-Control: max-age=60", `ETag: "1"`))
		w.do("GET /tag")
		w.says(ok("x", "Cache-Control: no-store"))
		w.do("GET /none")
		for _, test := range []struct {
			after  time.Duration
			want   int
			passes int
		}{{time.Second, 2, 1}, {3 * time.Minute, 2, 0}, {time.Hour, 1, 0}, {24 * time.Hour, 0, 0}} {
			time.Sleep(test.after)
			synctest.Wait()
			w.store.flights.mu.Lock()
			passes := len(w.store.flights.passes)
			w.store.flights.mu.Unlock()
			if n := w.store.check(t); n != test.want || passes != test.passes {
				t.Errorf("after %v: %d entries, %d passes", test.after, n, passes)
			}
		}
		cancel()
		run.Wait()
	})
}

// Readers, writers and purgers at the same time.
func TestStoreUnderConcurrency(t *testing.T) {
	w := newWorld(t, defaults())
	w.store = NewStore(64 << 10)
	w.use("read", w.rule)
	w.origin = func(r *exchange.Request) answer {
		return ok(strings.Repeat(r.Path, 50), "Cache-Control: max-age=60", `ETag: "1"`, "Vary: Accept")
	}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 400 {
				path := fmt.Sprintf("/%d", i%37)
				x := w.exchangeFor("GET "+path, fmt.Sprintf("Accept: %d", i%3))
				x.Subject.Workload = fmt.Sprint(g % 3)
				if i%50 == 0 {
					x.Request.Method = "POST"
				}
				if r := w.run(context.Background(), x); r.text != strings.Repeat(path, 50) {
					t.Errorf("%s gave %q", path, r.text)
					return
				}
				if i%97 == 0 {
					w.store.Purge("")
					w.sleep(30 * time.Second)
				}
			}
		})
	}
	all.Wait()
	w.store.check(t)
	if n := len(w.store.flights.open); n != 0 || w.store.filling != 0 {
		t.Errorf("%d flights, %d bytes on their way", n, w.store.filling)
	}
}

// 100 clients at once are one request at the origin.
func TestCollapsing(t *testing.T) {
	w := newWorld(t, defaults())
	release := make(chan struct{})
	w.origin = func(*exchange.Request) answer {
		<-release
		return ok("x", "Cache-Control: max-age=60")
	}
	var all sync.WaitGroup
	var hits, misses atomic.Int32
	for range 100 {
		all.Go(func() {
			r := w.run(t.Context(), w.exchangeFor("GET /a"))
			switch {
			case r.text != "x":
				t.Errorf("%q", r.text)
			case r.cache == "Hit":
				hits.Add(1)
			case r.cache == "Miss":
				misses.Add(1)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	close(release)
	all.Wait()
	if w.hits != 1 || hits.Load() != 99 || misses.Load() != 1 {
		t.Errorf("%d at the origin, %d hits, %d misses", w.hits, hits.Load(), misses.Load())
	}
}

// Those who wait go on where the first one comes to nothing, and nobody waits
// again for what serves nobody else.
func TestCollapsingInVain(t *testing.T) {
	for name, test := range map[string]struct {
		answer answer
		end    bool // without an answer
	}{
		"not to be stored":    {answer: ok("x", "Cache-Control: no-store")},
		"confirmed each time": {answer: ok("x", "Cache-Control: no-cache", `ETag: "1"`)},
		"cut":                 {answer: answer{status: 200, body: "x", cut: true}},
		"no answer":           {end: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, defaults())
			w.says(test.answer)
			first := w.exchangeFor("GET /a")
			w.pipeline.Request(t.Context(), first)
			var all sync.WaitGroup
			second := make(chan reply, 1)
			all.Go(func() {
				x := w.exchangeFor("GET /a")
				w.pipeline.Request(t.Context(), x)
				second <- reply{x: x, cache: x.Record.Cache.String()}
			})
			select {
			case r := <-second:
				t.Fatalf("did not wait: %q", r.cache)
			case <-time.After(20 * time.Millisecond):
			}
			if !test.end {
				w.roundTrip(first)
				w.pipeline.Response(t.Context(), first)
				drain(first.Response.Body)
			}
			w.pipeline.End(first)
			all.Wait()
			if r := <-second; r.x.Answered() {
				t.Errorf("answered: %q", r.cache)
			} else {
				w.pipeline.End(r.x)
			}
			if n := len(w.store.flights.open); n != 0 {
				t.Errorf("%d flights", n)
			}
			if test.answer.cut || test.end {
				return
			}
			// Now it is known.
			third, fourth := w.exchangeFor("GET /a"), w.exchangeFor("GET /a")
			w.pipeline.Request(t.Context(), third)
			w.pipeline.Request(t.Context(), fourth)
			w.pipeline.End(third)
			w.pipeline.End(fourth)
		})
	}
}

// A wait ends with the client, and in any case.
func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, defaults())
		w.says(ok("x"))
		first := w.exchangeFor("GET /a")
		w.pipeline.Request(t.Context(), first)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		x := w.exchangeFor("GET /a")
		w.pipeline.Request(ctx, x)
		w.pipeline.End(x)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("with its client gone it waited %v", took)
		}
		x = w.exchangeFor("GET /a")
		w.pipeline.Request(t.Context(), x)
		w.pipeline.End(x)
		if took := time.Since(begin); took != time.Second+waitTime {
			t.Errorf("it waited %v", took-time.Second)
		}
		w.pipeline.End(first)
	})
}

// A response is passed on as it comes, not when it has been stored.
func TestStreamsStayStreams(t *testing.T) {
	rule := defaults()
	rule.ContentTypes = nil
	rule.MaxBody = 100
	w := newWorld(t, rule)
	for _, fields := range [][]string{{"Content-Type: text/event-stream"}, {"Content-Type: text/plain"}} {
		w.says(answer{status: 200, body: strings.Repeat("event\n", 5000), chunked: true, fields: fields})
		x := w.exchangeFor("GET /a")
		w.pipeline.Request(t.Context(), x)
		w.roundTrip(x)
		w.pipeline.Response(t.Context(), x)
		p := make([]byte, 6)
		for range 5000 {
			if n, err := x.Response.Body.Read(p); n != 6 || err != nil || string(p) != "event\n" {
				t.Fatalf("%q %v", p[:n], err)
			}
		}
		w.store.mu.Lock()
		if w.store.filling != 0 {
			t.Errorf("%d bytes are kept", w.store.filling)
		}
		w.store.mu.Unlock()
		w.pipeline.End(x)
	}
}

// What is announced and does not come takes no room, and what is on its way has
// a bound of its own.
func TestFillingIsBounded(t *testing.T) {
	rule := defaults()
	rule.MaxBody = 1 << 20
	w := newWorld(t, rule) // 8 MiB: 2 MiB on their way, 1 MiB of one workload
	body := strings.Repeat("x", 600_000)
	w.says(ok(body))
	var open []*exchange.Exchange
	for i := range 20 {
		x := w.exchangeFor(fmt.Sprintf("GET /%d", i))
		x.Subject.Workload = fmt.Sprint(i % 5)
		w.pipeline.Request(t.Context(), x)
		w.roundTrip(x)
		w.pipeline.Response(t.Context(), x)
		if i == 0 && w.store.filling != 0 {
			t.Errorf("%d bytes for nothing", w.store.filling)
		}
		x.Response.Body.Read(make([]byte, 1000))
		open = append(open, x)
	}
	w.store.check(t)
	for range 500 {
		for _, x := range open {
			if n, err := x.Response.Body.Read(make([]byte, 1000)); n != 1000 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	w.store.check(t)
	for _, x := range open {
		drain(x.Response.Body)
		w.pipeline.End(x)
	}
	if n := w.store.check(t); n == 0 || w.store.filling != 0 {
		t.Errorf("%d entries, %d bytes on their way", n, w.store.filling)
	}
}
