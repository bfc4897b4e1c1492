package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// silent is an upstream that reads a request, says what it is told and then
// waits for its connection to end, of which it tells.
func silent(g *gate, say string) (s *site, asked, ended chan struct{}) {
	asked, ended = make(chan struct{}), make(chan struct{})
	return g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, say)
		close(asked)
		c.Read(make([]byte, 1))
		close(ended)
	}), asked, ended
}

func within(t *testing.T, d time.Duration, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("not within %v: %s", d, what)
	}
}

// TestClientGone: a client that closes its socket while the upstream is silent
// is noticed within two seconds, and the upstream's exchange is stopped.
func TestClientGone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, say string
		status    int
	}{
		{"before the answer", "", 0},
		{"within a stream", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, rules, nil)
			s, asked, ended := silent(g, tt.say)
			c := g.dial(1, s.dst())
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
			within(t, 30*time.Second, "the upstream is asked", asked)
			if tt.say != "" {
				// A close with unread input is a reset, which everybody sees.
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil {
					t.Fatal(err)
				}
			}
			left := time.Now()
			c.Close()
			g.p.FlowClosed(1, audit.Leg{}) // as the kernel tells
			within(t, 30*time.Second, "the upstream's connection ends", ended)
			// Two seconds, and what a busy machine adds.
			if took := time.Since(left); took > 10*time.Second {
				t.Errorf("noticed after %v", took)
			}
			if e := g.event(audit.Exchange, 1); e.Message != textGone || e.HTTP.Status != tt.status || e.Verdict != "allow" {
				t.Errorf("%+v", e)
			}
		})
	}
}

// TestClientThatOnlyEndedItsSide waits for its answer and gets it.
func TestClientThatOnlyEndedItsSide(t *testing.T) {
	t.Parallel()
	g := newGate(t, rules, nil)
	s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
		http.ReadRequest(bufio.NewReader(c))
		time.Sleep(2500 * time.Millisecond) // longer than it takes to notice that nobody waits
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	c := g.dial(1, s.dst())
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	c.CloseWrite()
	g.p.FlowClosed(99, audit.Leg{}) // of somebody else
	if r := read(t, bufio.NewReader(c), "GET"); r.err != nil || r.text != "ok" {
		t.Errorf("%+v", r)
	}
}

// TestWhatWasSentIsSent: a client that leaves without waiting for the answer has
// its whole request sent first.
func TestWhatWasSentIsSent(t *testing.T) {
	t.Parallel()
	g := newGate(t, rules, nil)
	begin, got := make(chan struct{}), make(chan int64, 1)
	s := g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
		c.SetReadBuffer(64 << 10)
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		<-begin
		n, _ := io.Copy(io.Discard, req.Body)
		got <- n
		c.Read(make([]byte, 1))
	})
	const size = 8 << 20
	c := g.dial(1, s.dst())
	enlarge(t, c, 4*size)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 8388608\r\n\r\n")
	left := make(chan struct{})
	go func() {
		defer close(left)
		io.CopyN(c, &pattern{}, size)
		c.Close()
		g.p.FlowClosed(1, audit.Leg{})
	}()
	within(t, 30*time.Second, "the client leaves", left)
	time.Sleep(2500 * time.Millisecond) // longer than it takes to notice that nobody waits
	close(begin)
	if n := <-got; n != size {
		t.Errorf("%d bytes of the request", n)
	}
	g.event(audit.Exchange, 1)
}

// enlarge gives a socket room for n bytes that nobody takes.
func enlarge(t *testing.T, c *net.TCPConn, n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var denied error
	if err := raw.Control(func(fd uintptr) { denied = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) }); err != nil {
		t.Fatal(err)
	}
	if denied != nil {
		t.Skipf("needs CAP_NET_ADMIN for more than net.core.wmem_max: %v", denied)
	}
}

// TestClientGoneBeforeItWasMet: the kernel may tell that a workload's socket is
// closed before its connection was accepted.
func TestClientGoneBeforeItWasMet(t *testing.T) {
	t.Parallel()
	g := newGate(t, rules, nil)
	s, asked, ended := silent(g, "")
	g.p.FlowClosed(1, audit.Leg{BytesSent: 7})
	c := g.dial(1, s.dst())
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	within(t, 30*time.Second, "the upstream is asked", asked)
	c.Close()
	within(t, 30*time.Second, "the upstream's connection ends", ended)
	if e := g.event(audit.FlowClose, 1); e.Counters.Workload.BytesSent != 7 {
		t.Errorf("%+v", e.Counters)
	}
	if n := g.p.legs.kept(); n != 0 {
		t.Errorf("%d reports are kept", n)
	}
}

func TestEarlyReportsAreBounded(t *testing.T) {
	var l legs
	for i := range uint64(3 * maxEarly) {
		l.report(i, audit.Leg{BytesSent: i})
	}
	if n := l.kept(); n != maxEarly {
		t.Errorf("%d kept, want %d", n, maxEarly)
	}
	l.begin(3*maxEarly - 1)
	if got, why := l.end(3*maxEarly-1, audit.Leg{}); got.BytesSent != 3*maxEarly-1 || why != "" {
		t.Errorf("%+v, %q", got, why)
	}
	l.begin(0)
	if got, why := l.end(0, audit.Leg{BytesSent: 5}); got.BytesSent != 5 || why == "" {
		t.Errorf("a forgotten report: %+v, %q", got, why)
	}
}

// TestWithoutTotals: where the kernel's figures do not come although they did before,
// ours stand in for them, and it is said; where they never come, nobody waits.
func TestWithoutTotals(t *testing.T) {
	var l legs
	ours := audit.Leg{BytesSent: 5}
	l.begin(1)
	// Who has waited says why.
	if got, why := l.end(1, ours); got != ours || why != "" {
		t.Errorf("never told: %+v, %q", got, why)
	}
	l.begin(2)
	l.report(2, audit.Leg{BytesSent: 7})
	if got, why := l.end(2, ours); got.BytesSent != 7 || why != "" {
		t.Errorf("told: %+v, %q", got, why)
	}
	l.begin(3)
	if got, why := l.end(3, ours); got != ours || why != lateTotals {
		t.Errorf("told no more: %+v, %q", got, why)
	}
}
