package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/port"
)

// TestServerPrefaceIsNoGreeting: servers of HTTP/2 may send their SETTINGS before
// the client has said anything (RFC 9113 section 3.4). A client that waits for
// them has its requests judged all the same.
func TestServerPrefaceIsNoGreeting(t *testing.T) {
	const request = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, greeting := range map[string]string{
		"HTTP/2":          "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
		"HTTP/2, empty":   "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"an early answer": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, `
timeouts: { sniff: 2s }
rules:
  - name: web
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
`, nil)
			got := make(chan string, 8)
			s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
				io.WriteString(c, greeting)
				b, _ := io.ReadAll(c)
				got <- string(b)
			})
			c := g.dial(1, s.dst())
			until(t, "the server is asked whether it speaks first", func() bool { return s.conns.Load() == 1 })
			time.Sleep(300 * time.Millisecond)
			io.WriteString(c, request)
			c.SetReadDeadline(time.Now().Add(time.Second))
			answer, _ := io.ReadAll(c)
			c.Close()
			g.stop()
			for range s.conns.Load() {
				if b := <-got; b != "" {
					t.Errorf("the upstream got %q", b)
				}
			}
			if string(answer) == greeting {
				t.Error("the client got the greeting")
			}
		})
	}
}

// TestSilentUntilReachable: who keeps silent until an upstream that was not
// reached is there has nothing forwarded unseen either.
func TestSilentUntilReachable(t *testing.T) {
	for name, tt := range map[string]struct{ sent, want string }{
		"a request":        {"GET /x HTTP/1.1\r\nHost: other.example.com\r\n\r\n", ""},
		"a TLS record":     {"\x16\x03\x01\x00\x50\x01", ""},
		"another protocol": {"HELO me\r\n", "HELO me\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, `
timeouts: { sniff: 3s }
rules:
  - name: web
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
`, nil)
			place := port.Refusing(t, "127.0.0.1")
			g.know("api.example.com", place.Addr())
			c := g.dial(1, place.String())
			time.Sleep(500 * time.Millisecond)
			got := make(chan string, 8)
			s := g.rawAt("", place.Listen(), func(c *net.TCPConn) {
				b, _ := io.ReadAll(c)
				got <- string(b)
			})
			until(t, "the upstream is reached", func() bool { return s.conns.Load() == 1 })
			io.WriteString(c, tt.sent)
			c.CloseWrite()
			c.SetReadDeadline(time.Now().Add(time.Second))
			io.ReadAll(c)
			c.Close()
			if b := <-got; b != tt.want {
				t.Errorf("the upstream got %q", b)
			}
			g.stop()
			if n := len(g.log.all(audit.Refused)); (n == 0) != (tt.want != "") {
				t.Errorf("%d refusals", n)
			}
		})
	}
}
