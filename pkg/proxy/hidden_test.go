package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestHiddenRequests: a rule that lets any TCP through to a name is no way to
// requests that nobody judges and records. What a lenient server could take for
// one is judged as one or refused, also where it comes in pieces and late.
func TestHiddenRequests(t *testing.T) {
	const request = "GET /x HTTP/1.1\r\nHost: other.example.com\r\n\r\n"
	const pause = "\x00pause\x00"
	for name, what := range map[string]string{
		"long method":         strings.Repeat("A", 40) + " / HTTP/1.1\r\nHost: a\r\n\r\n" + request,
		"very long method":    strings.Repeat("A", 20000) + " / HTTP/1.1\r\nHost: a\r\n\r\n" + request,
		"very long target":    "FOO /" + strings.Repeat("a", 20000) + " HTTP/1.1\r\nHost: a\r\n\r\n" + request,
		"form feed":           "GET\f/x\fHTTP/1.1\r\nHost: a\r\n\r\n",
		"vertical tab":        "GET\v/x\vHTTP/1.1\r\nHost: a\r\n\r\n",
		"bare CR":             "GET\r/x\rHTTP/1.1\r\nHost: a\r\n\r\n",
		"file separator":      "GET\x1c/x\x1cHTTP/1.1\r\nHost: a\r\n\r\n",
		"no-break space":      "GET\xa0/x\xa0HTTP/1.1\r\nHost: a\r\n\r\n",
		"form feed in front":  "\f" + request,
		"RTSP":                "DESCRIBE /x RTSP/1.0\r\nHost: a\r\n\r\n",
		"ICE":                 "SOURCE /x ICE/1.0\r\nHost: a\r\n\r\n",
		"half a method":       "GE" + pause + "T /x HTTP/1.1\r\nHost: a\r\n\r\n",
		"another method":      "FOO" + pause + " / HTTP/1.1\r\nHost: a\r\n\r\n" + request,
		"a late version":      "FOO / HTT" + pause + "P/1.1\r\nHost: a\r\n\r\n" + request,
		"an empty line first": "\r\n" + pause + request,
		"half a preface":      "PRI * HT" + pause + "TP/2.0\r\n\r\nSM\r\n\r\n",
		"half a record":       "\x16" + pause + "\x03\x01",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, `
timeouts: { sniff: 300ms }
rules:
  - name: web
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
`, func(o *Options) { o.Limits.Head = 2 * time.Second })
			got := make(chan string, 8)
			s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
				c.SetReadDeadline(time.Now().Add(time.Minute))
				b, _ := io.ReadAll(c)
				got <- string(b)
			})
			c := g.dial(1, s.dst())
			go func() {
				for i, part := range strings.Split(what, pause) {
					if i > 0 {
						time.Sleep(time.Second)
					}
					io.WriteString(c, part)
				}
			}()
			c.SetReadDeadline(time.Now().Add(2500 * time.Millisecond))
			io.ReadAll(c)
			c.Close()
			g.stop()
			for range s.conns.Load() {
				if b := <-got; b != "" {
					t.Errorf("the upstream got %.60q", b)
				}
			}
		})
	}
}
