package cache

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/exchange"
)

// request fills an exchange as a codec does, with what clients usually send.
func (w *world) request(x *exchange.Exchange, path string) {
	r := &x.Request
	r.Version, r.Method, r.Target, r.Scheme, r.Authority, r.Path = exchange.HTTP11, "GET", path, "https", "api.example.com", path
	x.Subject = exchange.Subject{Workload: "w", Rule: "read", Scheme: "https", Host: "api.example.com", Port: 443, Method: "GET"}
	for _, f := range [...]exchange.Field{
		{Name: "User-Agent", Value: "bench", ID: exchange.UserAgent, Checked: true},
		{Name: "Accept", Value: "*/*", ID: exchange.Accept, Checked: true},
		{Name: "Accept-Encoding", Value: "gzip", Checked: true},
	} {
		r.Header.Append(f)
	}
}

// What a hit of 1 KB costs, from the request to the response that is to be
// written.
func BenchmarkHit(b *testing.B) {
	for _, vary := range []bool{false, true} {
		b.Run(fmt.Sprintf("vary=%t", vary), func(b *testing.B) {
			w := newWorld(b, defaults())
			fields := []string{"Cache-Control: max-age=600", `ETag: "1"`, "Server: x", "Content-Type: text/plain"}
			if vary {
				fields = append(fields, "Vary: Accept-Encoding")
			}
			w.says(ok(strings.Repeat("x", 1000), fields...))
			x := new(exchange.Exchange)
			w.request(x, "/small")
			w.run(context.Background(), x)
			w.stage.now = time.Now
			for _, e := range w.store.find(w.store.hash(appendKey(nil, x)), appendKey(nil, x)).list() {
				e.freshness.until = time.Now().Add(time.Hour)
			}
			b.ReportAllocs()
			for b.Loop() {
				x.Reset()
				w.request(x, "/small")
				w.pipeline.Request(context.Background(), x)
				if x.Record.Cache != exchange.CacheHit {
					b.Fatal("no hit")
				}
				w.pipeline.End(x)
			}
		})
	}
}

// What the cache adds to a request that it stores.
func BenchmarkMiss(b *testing.B) {
	w := newWorld(b, defaults())
	w.stage.now = time.Now
	body := []byte(strings.Repeat("x", 1000))
	x := new(exchange.Exchange)
	paths := make([]string, 20_000)
	for i := range paths {
		paths[i] = fmt.Sprintf("/small/%d", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.Reset()
		w.request(x, paths[i%len(paths)])
		w.pipeline.Request(context.Background(), x)
		if x.Answered() {
			continue
		}
		r := &x.Response
		r.Status, r.Length, r.Body = 200, int64(len(body)), exchange.NewBytes(body)
		r.Header.Append(exchange.Field{Name: "Content-Type", Value: "text/plain", ID: exchange.ContentType, Checked: true})
		w.pipeline.Response(context.Background(), x)
		p, _ := r.Body.Buffered()
		r.Body.Discard(len(p))
		w.pipeline.End(x)
	}
}

// Readers do not wait for each other.
func BenchmarkHitParallel(b *testing.B) {
	w := newWorld(b, defaults())
	w.stage.now = time.Now
	w.time = time.Now()
	w.says(ok(strings.Repeat("x", 1000), "Cache-Control: max-age=600"))
	w.do("GET /small")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := new(exchange.Exchange)
		for pb.Next() {
			x.Reset()
			w.request(x, "/small")
			w.pipeline.Request(context.Background(), x)
			if x.Record.Cache != exchange.CacheHit {
				b.Error("no hit")
				return
			}
		}
	})
}

func BenchmarkParseControl(b *testing.B) {
	var h exchange.Header
	h.Add("Cache-Control", "public, max-age=600, stale-while-revalidate=60")
	b.ReportAllocs()
	for b.Loop() {
		parseControl(&h)
	}
}
