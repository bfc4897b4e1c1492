package http2

import (
	"context"
	"io"
	"runtime"
	"testing"

	"sallyport/pkg/exchange"
)

// TestIdleMemory measures what a connection without streams costs after some
// requests, without its socket.
func TestIdleMemory(t *testing.T) {
	const n = 200
	usage := func() int {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc + m.StackInuse)
	}
	codec := new(Codec)
	// What the connections share is made by the first one.
	exercise := func(cc *ClientConn) {
		for range 3 {
			s, err := cc.Open()
			if err != nil {
				t.Fatal(err)
			}
			var x exchange.Exchange
			benchRequest(&x.Request)
			if err := s.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, x.Response.Body)
			s.Finish(&x.Request)
		}
	}
	exercise(servePair(t, codec, answer1K))
	before := usage()
	for range n {
		cc := servePair(t, codec, answer1K)
		if _, err := cc.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		exercise(cc)
	}
	// Workers wait a little for the next stream; their stacks are not counted
	// where they have ended.
	waitFor(t, func() bool { return runtime.NumGoroutine() < 2*n+n/4+20 })
	each := (usage() - before) / n
	t.Logf("%d bytes for both ends of an idle connection", each)
	// The race detector has stacks twice as large.
	if each > 64<<10 {
		t.Errorf("both ends of an idle connection hold %d bytes", each)
	}
}
