package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/upstream"
)

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
		DialContext: func(context.Context, string, string) (net.Conn, error) { return g.connect(1, s.dst()) },
		Protocols:   new(http.Protocols),
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: time.Minute}
	if r := fetch(c, request(t, "GET", "http://api.example.com/", nil)); r.err != nil || r.text != "HTTP/2.0 api.example.com" {
		t.Errorf("%+v", r)
	}
	fetch(c, request(t, "GET", "http://api.example.com/admin/", nil)).mustRefuse(t, 403, "rule_denied")
	if s.reqs.Load() != 1 {
		t.Errorf("%d requests", s.reqs.Load())
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
		DialContext: func(context.Context, string, string) (net.Conn, error) { return g.connect(1, s.dst()) },
		Protocols:   new(http.Protocols),
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: time.Minute}
	fetch(c, request(t, "GET", "http://other.example.com/", nil)).mustRefuse(t, 403, "no_rule")
	if r := fetch(c, request(t, "GET", "http://tunnel.example.com/", nil)); r.err != nil || r.StatusCode != 200 {
		t.Errorf("%+v", r)
	}
	if s.reqs.Load() != 1 {
		t.Errorf("%d requests reached the upstream", s.reqs.Load())
	}
}
