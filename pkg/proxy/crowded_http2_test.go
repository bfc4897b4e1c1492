package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"sallyport/pkg/audit"
	"sallyport/pkg/http2"
)

// slowBody gives something and then nothing until hold is closed, or it is.
func slowBody(hold chan struct{}) io.Reader {
	r, w := io.Pipe()
	go func() {
		io.WriteString(w, "  ")
		<-hold
		w.Close()
	}()
	return r
}

// TestRefusedBodiesAreBounded: a refused request may hold memory while its end
// is waited for, and one connection of HTTP/2 may have many of them.
func TestRefusedBodiesAreBounded(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", nil, "h2")
	c := g.client(s, "api.example.com")
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	const sent, fit = 40, maxRefusedBodiesWorkload >> 20
	plain := make(chan reply, sent)
	var wg sync.WaitGroup
	for range sent {
		wg.Go(func() {
			req := request(t, "POST", "https://forbidden.example.com/", slowBody(hold))
			req.Header.Set("Content-Type", "application/json")
			plain <- fetch(c, req)
		})
	}
	for range sent - fit {
		(<-plain).mustRefuse(t, 403, "name_mismatch")
	}
	if n := g.p.refusedBodies.Load(); n != maxRefusedBodiesWorkload {
		t.Errorf("%d bytes are held, want %d", n, maxRefusedBodiesWorkload)
	}
	// Another workload is not concerned.
	other, err := g.dialTLS(2, s.dst(), "api.example.com", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	const call = `{"jsonrpc":"2.0","id":7,"method":"x"}`
	r := ask(t, other, "POST / HTTP/1.1\r\nHost: forbidden.example.com\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n25\r\n"+call+"\r\n0\r\n\r\n")
	if r.err != nil || r.StatusCode != 200 || !strings.Contains(r.text, `"id":7`) {
		t.Errorf("another workload got %+v", r)
	}
	release()
	wg.Wait()
	until(t, "all room is given back", func() bool { return g.p.refusedBodies.Load() == 0 })
}

// TestStreamsAreBounded: beyond a workload's share a stream is refused as
// unprocessed; with the ones before it goes on.
func TestStreamsAreBounded(t *testing.T) {
	g := newGate(t, http2Rules, func(o *Options) { o.Limits.Streams = 8 })
	hang := make(chan struct{})
	release := sync.OnceFunc(func() { close(hang) })
	t.Cleanup(release)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) { <-hang }, "h2")
	first, second := g.client(s, "api.example.com"), g.client(s, "api.example.com")
	var wg sync.WaitGroup
	for i := range 4 {
		c := first
		if i%2 == 1 {
			c = second
		}
		wg.Go(func() {
			if r := fetch(c, request(t, "GET", "https://api.example.com/", nil)); r.err != nil || r.StatusCode != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	until(t, "four requests are at the upstream", func() bool { return s.reqs.Load() == 4 })
	// The client would try again for a while; a request with a body that cannot
	// be rewound tells at once.
	r := fetch(first, request(t, "POST", "https://api.example.com/", io.MultiReader(strings.NewReader("x"))))
	if r.err == nil || !strings.Contains(r.err.Error(), http2.RefusedStream.String()) {
		t.Errorf("beyond the share: %+v", r)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "overloaded" || e.Verdict != "deny" {
		t.Errorf("%+v", e)
	}
	release()
	wg.Wait()
	until(t, "all places are given back", func() bool { return g.p.streams.Load() == 0 })
	if n := s.reqs.Load(); n != 4 {
		t.Errorf("%d requests reached the upstream, want 4", n)
	}
}
