package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/port"
)

func TestUpstreamDiesWithinTheBody(t *testing.T) {
	g := newGate(t, rules, nil)
	for name, head := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
				http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, head)
			})
			n := len(g.log.all(audit.Exchange))
			r := get(t, g.dial(1, s.dst()), "api.example.com", "/")
			if r.err == nil {
				t.Errorf("the client took a part for the whole: %+v", r)
			}
			if e := g.event(audit.Exchange, n+1); !strings.Contains(e.Message, "cut") || e.HTTP.Status != 200 {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestUpstreamAnswersNothing(t *testing.T) {
	g := newGate(t, "timeouts: { response_header: 200ms }\n"+rules, nil)
	quiet := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	get(t, g.dial(1, quiet.dst()), "api.example.com", "/").mustRefuse(t, 504, "upstream_timeout")
	// What is answered has time for it.
	g = newGate(t, rules, nil)
	gone := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) { http.ReadRequest(bufio.NewReader(c)) })
	get(t, g.dial(1, gone.dst()), "api.example.com", "/").mustRefuse(t, 502, "upstream_unreachable")
	junk := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
	})
	get(t, g.dial(1, junk.dst()), "api.example.com", "/").mustRefuse(t, 502, "upstream_unreachable")
	get(t, g.dial(1, port.Refusing(t, "127.0.0.1").String()), "api.example.com", "/").mustRefuse(t, 502, "upstream_unreachable")
}

// A pooled connection that dies is replaced for what may be sent twice, and for
// nothing else.
func TestRetryOnDeadPooledConnection(t *testing.T) {
	g := newGate(t, rules, nil)
	hits := make(chan string, 16)
	s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for first := true; ; first = false {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			hits <- req.Method
			if !first {
				return // dies without a byte
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := g.dial(1, s.dst())
	for range 3 {
		if r := get(t, c, "api.example.com", "/"); r.err != nil || r.StatusCode != 200 {
			t.Fatalf("%+v", r)
		}
	}
	if n := s.conns.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	if e := g.event(audit.Exchange, 2); e.Upstream.Attempts != 2 {
		t.Errorf("%+v", e.Upstream)
	}
	// A request that may have had its effect is not sent twice.
	n := len(hits)
	ask(t, c, "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 2\r\n\r\nhi").mustRefuse(t, 502, "upstream_unreachable")
	if len(hits) != n+1 {
		t.Errorf("a POST was sent %d times", len(hits)-n)
	}
}

func TestBigBodiesBothWays(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			h := sha256.New()
			n, _ := io.Copy(h, r.Body)
			fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.CopyN(w, &pattern{}, size)
	})
	want := sha256.New()
	io.CopyN(want, &pattern{}, size)
	sum := want.Sum(nil)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	var peak heap
	peak.watch(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	if n, err := io.Copy(got, resp.Body); n != size || err != nil || !bytes.Equal(got.Sum(nil), sum) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	go func() {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: %d\r\n\r\n", size)
		io.CopyN(c, &pattern{}, size)
	}()
	r := read(t, br, "POST")
	if r.text != fmt.Sprintf("%d %x", size, sum) {
		t.Errorf("%+v", r)
	}
	peak.below(t, 64<<20)
	e := g.event(audit.Exchange, 1)
	if e.HTTP.ResponseBytes != size {
		t.Errorf("%d bytes recorded", e.HTTP.ResponseBytes)
	}
	if e := g.event(audit.Exchange, 2); e.HTTP.RequestBytes != size {
		t.Errorf("%d bytes recorded", e.HTTP.RequestBytes)
	}
}

// Events reach the client as they come, however long the stream is open.
func TestStreamsStayStreams(t *testing.T) {
	g := newGate(t, "timeouts: { idle: 1s }\n"+rules, nil)
	more := make(chan string)
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for m := range more {
			io.WriteString(w, m)
			w.(http.Flusher).Flush()
		}
	})
	c := g.mustTLS(1, s.dst(), "api.example.com")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	more <- "data: 0\n\n"
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	for i := range 5 {
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != fmt.Sprintf("data: %d\n\n", i) {
			t.Fatalf("%q, %v", b, err)
		}
		if i == 2 {
			time.Sleep(1500 * time.Millisecond) // past timeouts.idle: a stream is not idle
		}
		if i < 4 {
			more <- fmt.Sprintf("data: %d\n\n", i+1)
		}
	}
	close(more)
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Error(err)
	}
}

func TestStreamIdleEndsSilentStreams(t *testing.T) {
	g := newGate(t, "timeouts: { stream_idle: 300ms }\n"+rules, nil)
	release := make(chan struct{})
	defer close(release)
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-release
	})
	c := g.mustTLS(1, s.dst(), "api.example.com")
	begin := time.Now()
	if r := get(t, c, "api.example.com", "/"); r.err == nil {
		t.Errorf("%+v", r)
	}
	if took := time.Since(begin); took < 250*time.Millisecond || took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestSlowClientsAreEnded(t *testing.T) {
	g := newGate(t, "timeouts: { idle: 200ms, sniff: 300ms }\n"+rules, func(o *Options) { o.Limits.Head = 300 * time.Millisecond })
	s := g.web("api.example.com", "127.0.0.1:0", nil, nil)
	// Who has something to say is given the time for it.
	patient := newGate(t, "timeouts: { idle: 200ms }\n"+rules, nil)
	patient.know("api.example.com", s.addr.Addr())
	ends := func(name string, c net.Conn) {
		t.Helper()
		begin := time.Now()
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Errorf("%s: not ended", name)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%s: ended after %v", name, took)
		}
	}
	silent := g.dial(1, s.dst())
	half := g.dial(1, s.dst())
	io.WriteString(half, "GET / HTTP/1.1\r\nHost: api.exa")
	idle := patient.dial(1, s.dst())
	if r := get(t, idle, "api.example.com", "/"); r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	slowHello := g.dial(1, s.dst())
	slowHello.Write([]byte{22, 3, 1, 2, 0, 1, 0})
	ends("silent", silent)
	ends("half a head", half)
	ends("idle", idle)
	ends("half a hello", slowHello)
	if s.reqs.Load() != 1 {
		t.Error("more than one request came through")
	}
}

func TestDrain(t *testing.T) {
	g := newGate(t, rules, nil)
	started, release := make(chan struct{}), make(chan struct{})
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(started)
			<-release
		}
		io.WriteString(w, "done")
	})
	idle := g.mustTLS(1, s.dst(), "api.example.com")
	if r := get(t, idle, "api.example.com", "/"); r.StatusCode != 200 {
		t.Fatalf("%+v", r)
	}
	busy := g.mustTLS(1, s.dst(), "api.example.com")
	io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	<-started
	stopped := make(chan struct{})
	go func() {
		g.stop()
		close(stopped)
	}()
	if _, err := io.Copy(io.Discard, idle); isTimeout(err) {
		t.Error("an idle connection was not closed")
	}
	if c, err := net.DialTimeout("tcp", g.addr, time.Second); err == nil {
		c.Close()
		t.Error("the listener still accepts")
	}
	close(release)
	if r := read(t, bufio.NewReader(busy), "GET"); r.text != "done" || !r.Close {
		t.Errorf("%+v", r)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Error("Serve does not return")
	}
}

func TestPipeliningExpectAndTrailers(t *testing.T) {
	g := newGate(t, rules, nil)
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s", r.URL.Path, b, r.Trailer.Get("X-End"))
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "42")
	})
	c := g.mustTLS(1, s.dst(), "api.example.com")
	br := bufio.NewReader(c)
	io.WriteString(c, strings.Repeat("GET /p HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 3)+
		"POST /t HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n2\r\nhi\r\n0\r\nX-End: e\r\n\r\n")
	for range 3 {
		if r := read(t, br, "GET"); r.text != "/p  " {
			t.Fatalf("%+v", r)
		}
	}
	if r := read(t, br, "POST"); r.text != "/t hi e" || r.Trailer.Get("X-Sum") != "42" {
		t.Fatalf("%+v", r)
	}
	io.WriteString(c, "PUT /e HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if r := read(t, br, "PUT"); r.err != nil || r.StatusCode != 100 {
		t.Fatalf("%+v", r)
	}
	io.WriteString(c, "body")
	if r := read(t, br, "PUT"); r.text != "/e body " {
		t.Fatalf("%+v", r)
	}
}
