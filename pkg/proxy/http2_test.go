package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/upstream"
)

const http2Rules = `
rules:
  - name: no-admin
    match: { hosts: [api.example.com], methods: [GET], paths: [/admin/**] }
    action: deny
  - name: web
    match: { hosts: [api.example.com, other.example.com] }
    private: [127.0.0.0/8]
    action: allow
`

// speaking serves HTTPS and offers the protocols.
func (g *gate) speaking(host string, h http.HandlerFunc, protocols ...string) *site {
	g.t.Helper()
	cert, err := g.internet.leaf(host, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.reqs.Add(1)
			if h != nil {
				h(w, r)
				return
			}
			fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, r.URL.RequestURI())
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: protocols},
		Protocols: new(http.Protocols),
	}
	for _, p := range protocols {
		switch p {
		case "h2":
			srv.Protocols.SetHTTP2(true)
		case "http/1.1":
			srv.Protocols.SetHTTP1(true)
		}
	}
	go srv.ServeTLS(ln, "", "")
	g.t.Cleanup(func() { srv.Close() })
	g.know(host, s.addr.Addr())
	return s
}

// client gives a client of HTTP/2 whose connections are captured ones of w1 to
// the site.
func (g *gate) client(s *site, sni string) *http.Client {
	tr := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return g.dialTLS(1, s.dst(), sni, "h2", "http/1.1")
		},
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(true)
	tr.Protocols.SetHTTP2(true)
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func fetch(c *http.Client, req *http.Request) reply {
	resp, err := c.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b), err}
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestALPNIsMirrored(t *testing.T) {
	for _, tt := range []struct {
		client, upstream []string
		want, proto      string
	}{
		{[]string{"h2", "http/1.1"}, []string{"h2", "http/1.1"}, "h2", "HTTP/2.0"},
		{[]string{"http/1.1", "h2"}, []string{"h2", "http/1.1"}, "h2", "HTTP/2.0"},
		{[]string{"h2", "http/1.1"}, []string{"http/1.1"}, "http/1.1", "HTTP/1.1"},
		{[]string{"h2"}, []string{"h2", "http/1.1"}, "h2", "HTTP/2.0"},
		{[]string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1", "HTTP/1.1"},
		{nil, []string{"h2", "http/1.1"}, "", "HTTP/1.1"},
	} {
		t.Run(fmt.Sprint(tt.client, tt.upstream), func(t *testing.T) {
			g := newGate(t, http2Rules, nil)
			s := g.speaking("api.example.com", nil, tt.upstream...)
			for range 2 {
				c, err := g.dialTLS(1, s.dst(), "api.example.com", tt.client...)
				if err != nil {
					t.Fatal(err)
				}
				got := c.ConnectionState().NegotiatedProtocol
				if got != tt.want {
					t.Fatalf("negotiated %q, want %q", got, tt.want)
				}
				if got == "h2" {
					c.Close()
					continue
				}
				if r := get(t, c, "api.example.com", "/x"); r.err != nil || r.text != tt.proto+" api.example.com /x" {
					t.Errorf("%+v", r)
				}
			}
			if tt.want != "h2" {
				return
			}
			r := fetch(g.client(s, "api.example.com"), request(t, "GET", "https://api.example.com/x?y", nil))
			if r.err != nil || r.text != tt.proto+" api.example.com /x?y" || r.Proto != "HTTP/2.0" {
				t.Errorf("%+v", r)
			}
			want := int64(1)
			if len(tt.client) == 1 {
				want = 2 // the last client offers more, and the upstream could choose otherwise
			}
			if n := s.conns.Load(); n != want {
				t.Errorf("%d connections to the upstream, want %d that all use", n, want)
			}
			e := g.event(audit.Exchange, 1)
			if e.HTTP.Version != "2" || e.HTTP.Path != "/x" || e.HTTP.Query != "y" || e.HTTP.Status != 200 || e.Verdict != "allow" || e.Rule != "web" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestStreamsSideBySide(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	arrived := make(chan struct{})
	var all sync.WaitGroup
	const n = 60
	all.Add(n)
	go func() { all.Wait(); close(arrived) }()
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			return
		}
		all.Done()
		<-arrived // every request is here before any is answered
		io.Copy(w, r.Body)
	}, "h2")
	c := g.client(s, "api.example.com")
	fetch(c, request(t, "GET", "https://api.example.com/first", nil))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			body := make([]byte, 1000*i)
			rand.Read(body)
			r := fetch(c, request(t, "POST", fmt.Sprintf("https://api.example.com/%d", i), bytes.NewReader(body)))
			if r.err != nil || r.text != string(body) {
				t.Errorf("%d: %v, %d bytes", i, r.err, len(r.text))
			}
		})
	}
	wg.Wait()
	if s.conns.Load() != 1 {
		t.Errorf("%d connections to the upstream", s.conns.Load())
	}
	until(t, "one event for each", func() bool { return len(g.log.all(audit.Exchange)) == n+1 })
	seen := map[string]bool{}
	for _, e := range g.log.all(audit.Exchange)[1:] {
		seen[e.HTTP.Path] = true
		if want := fmt.Sprint("/", e.HTTP.RequestBytes/1000); e.HTTP.Path != want || e.HTTP.RequestBytes != e.HTTP.ResponseBytes {
			t.Errorf("%s: %d bytes and %d", e.HTTP.Path, e.HTTP.RequestBytes, e.HTTP.ResponseBytes)
		}
	}
	if len(seen) != n {
		t.Errorf("%d different paths", len(seen))
	}
}

func TestRefusedStreams(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", nil, "h2", "http/1.1")
	c := g.client(s, "api.example.com")
	fetch(c, request(t, "GET", "https://api.example.com/admin/x", nil)).mustRefuse(t, 403, "rule_denied")
	r := request(t, "GET", "https://api.example.com/", nil)
	r.Host = "other.example.com"
	fetch(c, r).mustRefuse(t, 403, "name_mismatch")
	// The connection goes on.
	if r := fetch(c, request(t, "GET", "https://api.example.com/fine", nil)); r.err != nil || r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	rpc := request(t, "GET", "https://api.example.com/admin/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":7,"method":"x"}`))
	rpc.Header.Set("Content-Type", "application/json")
	if r := fetch(c, rpc); r.StatusCode != 403 {
		t.Errorf("%+v", r)
	}
	if n := s.reqs.Load(); n != 1 {
		t.Errorf("%d requests reached the upstream", n)
	}
	if n := len(g.log.all(audit.FlowOpen)); n != 1 {
		t.Errorf("%d flows", n)
	}
	evil := g.speaking("evil.example.com", nil, "h2")
	fetch(g.client(evil, "evil.example.com"), request(t, "GET", "https://evil.example.com/", nil)).mustRefuse(t, 403, "no_rule")
	grpc := request(t, "POST", "https://evil.example.com/pkg.Service/Call", strings.NewReader("\x00\x00\x00\x00\x00"))
	grpc.Header.Set("Content-Type", "application/grpc")
	got := fetch(g.client(evil, "evil.example.com"), grpc)
	if got.err != nil || got.StatusCode != 200 || got.Header.Get("Grpc-Status") != "7" || !strings.Contains(got.Header.Get("Grpc-Message"), "evil.example.com") {
		t.Errorf("%+v", got)
	}
	if evil.conns.Load() != 0 || g.book.wasAsked("evil.example.com") {
		t.Error("a refused upstream was contacted")
	}
}

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
		case <-time.After(5 * time.Second):
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

func TestTrailersOfStreams(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Mine"))
	}, "h2")
	req := request(t, "POST", "https://api.example.com/", io.NopCloser(strings.NewReader("body")))
	req.Trailer = http.Header{"X-Mine": {"42"}}
	r := fetch(g.client(s, "api.example.com"), req)
	if r.err != nil || r.text != "body" || r.Trailer.Get("X-Sum") != "42" {
		t.Errorf("%+v", r)
	}
}

// An upstream that spoke HTTP/2 may speak HTTP/1.1 on its next connection.
func TestStreamsOverHTTP1(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	cert, err := g.internet.leaf("api.example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var old atomic.Bool
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
		w.Header().Set("X-Sum", "1")
	}), TLSConfig: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2", "http/1.1"}}
		if old.Load() {
			c.NextProtos = c.NextProtos[1:]
		}
		return c, nil
	}, Certificates: []tls.Certificate{*cert}}}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	g.know("api.example.com", s.addr.Addr())
	c := g.client(s, "api.example.com")
	for _, want := range []string{"HTTP/2.0", "HTTP/1.1"} {
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				body := strings.Repeat("x", 10000*i)
				r := fetch(c, request(t, "POST", "https://api.example.com/", io.NopCloser(strings.NewReader(body))))
				if r.err != nil || r.Proto != "HTTP/2.0" || r.Header.Get("X-Proto") != want || r.text != body || r.Trailer.Get("X-Sum") != "1" {
					t.Errorf("want %s: %v %+v", want, r.err, r.Response)
				}
			})
		}
		wg.Wait()
		old.Store(true)
		g.pool.SetTrust(upstream.Trust{Roots: g.internet.pool()}) // every connection is opened anew
	}
}

func TestPriorKnowledge(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.reqs.Add(1)
		fmt.Fprintf(w, "%s %s", r.Proto, r.Host)
	})}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	g.know("api.example.com", s.addr.Addr())
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return g.dial(1, s.dst()), nil },
		Protocols:   new(http.Protocols),
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	if r := fetch(c, request(t, "GET", "http://api.example.com/", nil)); r.err != nil || r.text != "HTTP/2.0 api.example.com" {
		t.Errorf("%+v", r)
	}
	fetch(c, request(t, "GET", "http://api.example.com/admin/", nil)).mustRefuse(t, 403, "rule_denied")
	if s.reqs.Load() != 1 {
		t.Errorf("%d requests", s.reqs.Load())
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
	case <-time.After(10 * time.Second):
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
	last := 0
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
	if last == 0 || last > 24<<20 {
		t.Errorf("the upstream could send %d bytes to a client that reads nothing", last)
	}
	if r := fetch(c, request(t, "GET", "https://api.example.com/other", nil)); r.err != nil {
		t.Errorf("another stream: %v", r.err)
	}
}

// A stream that is silent for longer than stream_idle ends; others go on.
func TestSilentStream(t *testing.T) {
	g := newGate(t, "timeouts: { stream_idle: 300ms }\n"+http2Rules, nil)
	s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("begun"))
		w.(http.Flusher).Flush()
		for r.URL.Path == "/lively" {
			if _, err := w.Write([]byte(".")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
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
	if took := time.Since(begin); r.err == nil || took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("%v after %v", r.err, took)
	}
	if _, err := io.ReadFull(lively.Body, make([]byte, 10)); err != nil {
		t.Errorf("the other stream: %v", err)
	}
}

// An upstream that takes few streams is not sent more than it takes.
func TestUpstreamThatTakesFewStreams(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	cert, err := g.internet.leaf("api.example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.reqs.Add(1)
			time.Sleep(time.Millisecond)
			io.Copy(w, r.Body)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"}},
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 7},
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	g.know("api.example.com", s.addr.Addr())
	clients := []*http.Client{g.client(s, "api.example.com"), g.client(s, "api.example.com")}
	var wg sync.WaitGroup
	const n = 200
	for i := range n {
		wg.Go(func() {
			r := fetch(clients[i%2], request(t, "POST", "https://api.example.com/", io.NopCloser(strings.NewReader("body"))))
			if r.err != nil || r.StatusCode != 200 || r.text != "body" {
				t.Errorf("%d: %v %+v %s", i, r.err, r.Response, r.text)
			}
		})
	}
	wg.Wait()
	if s.reqs.Load() != n {
		t.Errorf("%d requests reached the upstream", s.reqs.Load())
	}
}

// A refused upload leaves its connection good for the next request.
func TestRefusedUpload(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.speaking("api.example.com", nil, "h2")
	evil := g.speaking("evil.example.com", nil, "h2")
	c := g.client(evil, "evil.example.com")
	for range 5 {
		fetch(c, request(t, "POST", "https://evil.example.com/", bytes.NewReader(make([]byte, 4<<20)))).mustRefuse(t, 403, "no_rule")
	}
	if n := len(g.log.all(audit.FlowOpen)); n != 1 {
		t.Errorf("%d connections of the client", n)
	}
	_ = s
}

// An upstream that answers before it has read the request is heard, and the
// upload stops.
func TestEarlyAnswerToAStream(t *testing.T) {
	for _, upstream := range []string{"h2", "http/1.1"} {
		g := newGate(t, http2Rules, nil)
		s := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				w.WriteHeader(413)
				io.WriteString(w, "too much")
			}
		}, upstream)
		c := g.client(s, "api.example.com")
		for range 3 {
			body := &endless{}
			r := fetch(c, request(t, "POST", "https://api.example.com/", body))
			if r.err != nil || r.StatusCode != 413 || r.text != "too much" {
				t.Errorf("%s: %v %+v %q", upstream, r.err, r.Response, r.text)
			}
			if n := body.n.Load(); n > 64<<20 {
				t.Errorf("%s: %d bytes were uploaded", upstream, n)
			}
		}
		if r := fetch(c, request(t, "GET", "https://api.example.com/", nil)); r.err != nil {
			t.Errorf("%s: the next request: %v", upstream, r.err)
		}
	}
}

// endless is a body that never ends.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n.Add(int64(len(p)))
	return len(p), nil
}

// Requests in clear are judged whatever name their address was told for: a rule
// that tunnels one name of a shared address must not let the others through.
func TestPriorKnowledgeIsNotTunnelled(t *testing.T) {
	g := newGate(t, `
rules:
  - name: tunnelled
    match: { hosts: [tunnel.example.com] }
    private: [127.0.0.0/8]
    action: allow
    handling: tunnel
`, nil)
	ln, s := g.listen("127.0.0.1:0")
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.reqs.Add(1) })}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	g.know("other.example.com", s.addr.Addr())
	g.know("tunnel.example.com", s.addr.Addr())
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return g.dial(1, s.dst()), nil },
		Protocols:   new(http.Protocols),
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	fetch(c, request(t, "GET", "http://other.example.com/", nil)).mustRefuse(t, 403, "no_rule")
	if r := fetch(c, request(t, "GET", "http://tunnel.example.com/", nil)); r.err != nil || r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	if s.reqs.Load() != 1 {
		t.Errorf("%d requests reached the upstream", s.reqs.Load())
	}
}
