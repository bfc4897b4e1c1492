package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestYield: a connection that is idle when another process takes over is
// answered once more, and told that it was the last time; where nothing comes it is
// closed before the time to drain is over.
func TestYield(t *testing.T) {
	t.Parallel()
	const drain = 10 * time.Second
	g := newGate(t, "timeouts: { drain: 10s }\n"+rules, nil)
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") })
	used, unused := g.mustTLS(1, s.dst(), "api.example.com"), g.mustTLS(1, s.dst(), "api.example.com")
	for _, c := range []net.Conn{used, unused} {
		if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 || r.Close {
			t.Fatalf("%+v", r)
		}
	}
	g.p.Yield()
	begin := time.Now()
	stopped := make(chan struct{})
	go func() {
		g.stop()
		close(stopped)
	}()
	until(t, "settled", g.p.Settled)
	if c, err := net.DialTimeout("tcp", g.addr, time.Second); err == nil {
		c.Close()
		t.Error("the listener still accepts")
	}
	time.Sleep(300 * time.Millisecond) // far beyond the time in which idle ones were closed
	if r := get(t, used, "api.example.com", "/last"); r.StatusCode != 200 || !r.Close {
		t.Errorf("after the end of accepting: %+v", r)
	}
	if _, err := io.Copy(io.Discard, unused); err != nil {
		t.Errorf("a connection without a request was not closed cleanly: %v", err)
	}
	if took := time.Since(begin); took < drain/2 || took > drain {
		t.Errorf("it was closed after %s", took)
	}
	<-stopped
}

// TestLateRequest: a request that has arrived when its connection is closed as
// idle is answered.
func TestLateRequest(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") })
	for range 200 {
		c := g.mustTLS(1, s.dst(), "api.example.com")
		if r := get(t, c, "api.example.com", "/"); r.StatusCode != 200 {
			t.Fatalf("%+v", r)
		}
		var one *conn
		until(t, "idle", func() bool {
			one = nil
			g.p.each(func(c *conn) { one = c })
			return one != nil && one.phase.Load() == waiting
		})
		since := one.since.Load()
		// Both at the same moment, in either order.
		asked := make(chan struct{})
		go func() {
			io.WriteString(c, "GET /late HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
			close(asked)
		}()
		<-asked
		// What was written is not there before the kernel has carried it.
		until(t, "arrived", func() bool {
			queued := 0
			one.raw.Control(func(fd uintptr) { queued, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
			return queued > 0 || one.since.Load() != since
		})
		one.stopIdle()
		if r := read(t, bufio.NewReader(c), "GET"); r.StatusCode != 200 || r.text != "done" {
			t.Fatalf("%+v", r)
		}
		c.Close()
		until(t, "gone", func() bool {
			n := 0
			g.p.each(func(*conn) { n++ })
			return n == 0
		})
	}
}
