package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

func TestCancelledStream(t *testing.T) {
	for _, protocol := range []string{"h2"} {
		g := newGate(t, http2Rules, nil)
		begun, gone := make(chan struct{}), make(chan struct{})
		s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/fine" {
				return
			}
			close(begun)
			<-r.Context().Done()
			close(gone)
		}, protocol)
		c := g.client(s, "api.example.com")
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-begun; cancel() }()
		if r := fetch(c, request(t, "GET", "https://api.example.com/", nil).WithContext(ctx)); !errors.Is(r.err, context.Canceled) {
			t.Fatalf("%+v", r)
		}
		select {
		case <-gone:
		case <-time.After(30 * time.Second):
			t.Fatal("the upstream still works for nobody")
		}
		if e := g.event(audit.Exchange, 1); !strings.Contains(e.Message, "cancelled") {
			t.Errorf("%+v", e)
		}
		// The connection goes on.
		if r := fetch(c, request(t, "GET", "https://api.example.com/fine", nil)); r.err != nil {
			t.Error(r.err)
		}
		if s.conns.Load() != 1 {
			t.Errorf("%d connections", s.conns.Load())
		}
	}
}

func TestCutStreamIsNotWhole(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, "h2")
	r := fetch(g.client(s, "api.example.com"), request(t, "GET", "https://api.example.com/", nil))
	if r.err == nil || r.text != "part" {
		t.Errorf("%+v", r)
	}
	if e := g.event(audit.Exchange, 1); !strings.Contains(e.Message, "the upstream cut the response") {
		t.Errorf("%+v", e)
	}
}

// An upstream that resets a stream before it answers resets the client's.
func TestResetIsPassedOn(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, "h2")
	r := fetch(g.client(s, "api.example.com"), request(t, "POST", "https://api.example.com/", strings.NewReader("x")))
	if r.err == nil || !strings.Contains(r.err.Error(), "INTERNAL_ERROR") {
		t.Errorf("%+v", r)
	}
	if e := g.event(audit.Exchange, 1); e.Verdict != "allow" || !strings.Contains(e.Message, "the upstream reset the stream") {
		t.Errorf("%+v", e)
	}
}

// A running exchange of HTTP/2 ends before the proxy does; an idle connection
// does not keep it.
func TestDrainOfStreams(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	begun, finish := make(chan struct{}), make(chan struct{})
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		io.WriteString(w, "whole")
	}, "h2")
	c := g.client(s, "api.example.com")
	got := make(chan reply, 1)
	go func() { got <- fetch(c, request(t, "GET", "https://api.example.com/", nil)) }()
	<-begun
	stopped := make(chan struct{})
	go func() { g.stop(); close(stopped) }()
	until(t, "draining", func() bool { return g.p.draining.Load() })
	close(finish)
	if r := <-got; r.err != nil || r.text != "whole" {
		t.Errorf("%+v", r)
	}
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Error("the proxy waits for an idle connection")
	}
}

// A slow reader holds its own stream's upstream back, and no other stream.
func TestFlowControlHolds(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	sent := make(chan int, 1)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		n, chunk := 0, make([]byte, 64<<10)
		for n < 64<<20 {
			m, err := w.Write(chunk)
			n += m
			if err != nil {
				break
			}
			select {
			case <-sent:
			default:
			}
			sent <- n
		}
	}, "h2")
	c := g.client(s, "api.example.com")
	resp, err := c.Do(request(t, "GET", "https://api.example.com/slow", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last int
	select {
	case last = <-sent:
	case <-time.After(time.Minute):
		t.Fatal("the upstream could send nothing within a minute")
	}
	for {
		select {
		case last = <-sent:
			continue
		case <-time.After(300 * time.Millisecond):
		}
		break
	}
	// Windows of both legs and what sockets hold; the client of net/http alone
	// takes 4 MB of a stream.
	if last > 24<<20 {
		t.Errorf("the upstream could send %d bytes to a client that reads nothing", last)
	}
	if r := fetch(c, request(t, "GET", "https://api.example.com/other", nil)); r.err != nil {
		t.Errorf("another stream: %v", r.err)
	}
}

// A stream that is silent for longer than stream_idle ends; others go on.
func TestSilentStream(t *testing.T) {
	g := newGate(t, "timeouts: { stream_idle: 2s }\n"+http2Rules, nil)
	var written atomic.Int64
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("begun"))
		w.(http.Flusher).Flush()
		for r.URL.Path == "/lively" {
			if _, err := w.Write([]byte(".")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			written.Add(1)
			select {
			case <-r.Context().Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
		<-r.Context().Done()
	}, "h2")
	c := g.client(s, "api.example.com")
	lively, err := c.Do(request(t, "GET", "https://api.example.com/lively", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer lively.Body.Close()
	begin := time.Now()
	r := fetch(c, request(t, "GET", "https://api.example.com/silent", nil))
	if took := time.Since(begin); r.err == nil || took < 2*time.Second || took > 20*time.Second {
		t.Errorf("%v after %v", r.err, took)
	}
	// More than what may lie in buffers.
	if _, err := io.ReadFull(lively.Body, make([]byte, written.Load()+10)); err != nil {
		t.Errorf("the other stream: %v", err)
	}
}
