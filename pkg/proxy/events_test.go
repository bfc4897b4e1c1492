package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// pieces are the events of a stream in the pieces in which it is sent.
func pieces() []string {
	return []string{
		"retry: 10\n\n", "data: one\n\n", "d", "ata: in ", "small pieces\n", "\n", ": a comment that keeps the stream alive\n\n",
		"id: 7\nevent: tick\ndata: two\ndata: lines\n\n", "data: " + strings.Repeat("x", 40_000) + "\n\n", "\n", "data: last\n\n",
	}
}

// TestEventsComeAtOnce: a piece of a stream is with the client before the next
// one is sent, however the stream is framed or coded.
func TestEventsComeAtOnce(t *testing.T) {
	for _, framing := range []string{"chunked", "until close"} {
		for _, coding := range []string{"identity", "gzip"} {
			for _, secure := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, secure %v", framing, coding, secure), func(t *testing.T) {
					g := newGate(t, rules, nil)
					next, ended := make(chan string), make(chan struct{})
					serve := func(w io.Writer) {
						var out bytes.Buffer
						zip := gzip.NewWriter(&out)
						for p := range next {
							if coding == "gzip" {
								io.WriteString(zip, p)
								zip.Flush()
							} else {
								out.WriteString(p)
							}
							if framing == "chunked" {
								fmt.Fprintf(w, "%x\r\n%s\r\n", out.Len(), out.Bytes())
							} else {
								w.Write(out.Bytes())
							}
							out.Reset()
						}
						if framing == "chunked" {
							io.WriteString(w, "0\r\n\r\n")
						}
						close(ended)
					}
					handle := func(c net.Conn) {
						http.ReadRequest(bufio.NewReader(c))
						head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: " + coding + "\r\n"
						if framing == "chunked" {
							head += "Transfer-Encoding: chunked\r\n"
						}
						io.WriteString(c, head+"\r\n")
						serve(c)
					}
					c := g.streamed(secure, handle)
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
					// The head is here before the first event.
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						t.Fatal(err)
					}
					body := io.Reader(resp.Body)
					for i, p := range pieces() {
						next <- p
						if coding == "gzip" && i == 0 {
							if body, err = gzip.NewReader(resp.Body); err != nil {
								t.Fatal(err)
							}
						}
						b := make([]byte, len(p))
						if _, err := io.ReadFull(body, b); err != nil || string(b) != p {
							t.Fatalf("piece %d: %q, %v", i, b, err)
						}
					}
					close(next)
					<-ended
				})
			}
		}
	}
}

// streamed gives a client's connection to an upstream that handles its own.
func (g *gate) streamed(secure bool, handle func(net.Conn)) net.Conn {
	g.t.Helper()
	if !secure {
		s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) { handle(c) })
		return g.dial(1, s.dst())
	}
	s := g.secure("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		// Hijacked: the stream writes its own framing.
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		handle(&headed{Conn: c, head: strings.NewReader("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"), rest: rw.Reader})
	})
	return g.mustTLS(1, s.dst(), "api.example.com")
}

// headed is a connection whose first request was read already.
type headed struct {
	net.Conn
	head *strings.Reader
	rest io.Reader
}

func (h *headed) Read(p []byte) (int, error) {
	if h.head.Len() > 0 {
		return h.head.Read(p)
	}
	return h.rest.Read(p)
}

// TestLongStreamTakesNoMemory: what a stream of events holds does not grow with
// the events that went by.
func TestLongStreamTakesNoMemory(t *testing.T) {
	g := newGate(t, rules, nil)
	const early, all = 2_000, 40_000
	proceed := make(chan struct{})
	c := g.streamed(true, func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for i := range all {
			event := fmt.Sprintf("id: %d\ndata: %s\n\n", i, strings.Repeat("x", 100+i%400))
			if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(event), event); err != nil {
				return
			}
			if i == early {
				<-proceed
			}
		}
		io.WriteString(c, "0\r\n\r\n")
	})
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(resp.Body)
	held := func() int64 {
		runtime.GC()
		runtime.GC() // what sync.Pool held goes with the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var before int64
	for i := range all {
		id, err := lines.ReadString('\n')
		if err != nil || id != fmt.Sprintf("id: %d\n", i) {
			t.Fatalf("event %d: %q %v", i, id, err)
		}
		for range 2 {
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if i == early {
			before = held()
			close(proceed)
		}
	}
	after := held()
	t.Logf("%d bytes of heap after %d events, %d after %d", before, early, after, all)
	if after-before > 512<<10 {
		t.Errorf("%d bytes of heap after %d events, %d after %d", before, early, after, all)
	}
	if _, err := io.ReadAll(lines); err != nil {
		t.Error(err)
	}
	if e := g.event(audit.Exchange, 1); e.HTTP.ResponseBytes < all*100 {
		t.Errorf("%+v", e.HTTP)
	}
}

// TestSlowReaderHoldsTheUpstreamBack: what a client does not read is not taken
// from the upstream, and nothing of it is lost.
func TestSlowReaderHoldsTheUpstreamBack(t *testing.T) {
	g := newGate(t, rules, nil)
	const all = 128 << 20
	var written atomic.Int64
	c := g.streamed(false, func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		event := []byte("data: " + strings.Repeat("x", 1016) + "\n\n")
		for written.Load() < all {
			n, err := c.Write(event)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	var peak heap
	peak.watch(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	// It stands still when the sockets' buffers are full.
	var stood int64
	for quiet := 0; quiet < 10; {
		time.Sleep(30 * time.Millisecond)
		if now := written.Load(); now == stood && now > 0 {
			quiet++
		} else {
			stood, quiet = now, 0
		}
	}
	if stood >= all/2 {
		t.Errorf("the upstream was let to write %d bytes for a client that reads none", stood)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != all || err != nil {
		t.Errorf("%d bytes of %d, %v", n, all, err)
	}
	peak.below(t, 32<<20)
}
