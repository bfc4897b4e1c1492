package http2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/exchange"
)

// A gate is our server side that forwards to our client side, as the proxy
// does: the least that a proxy needs.
type gate struct {
	codec     Codec
	exchanges exchange.Pool
	upstream  *ClientConn
	timeout   time.Duration
}

func (g *gate) handle(s *ServerStream) {
	x := s.Exchange()
	req, resp := &x.Request, &x.Response
	if bad := s.Malformed(); bad != nil {
		resp.Reset()
		resp.Local, resp.Status, resp.Body = true, bad.Status, exchange.NewBytes([]byte(bad.Text))
		resp.Length = int64(len(bad.Text))
		s.WriteResponse(req, resp)
		return
	}
	cs, err := g.upstream.Open()
	if err != nil {
		g.refuse(s, 503, err)
		return
	}
	s.OnCancel(cs.Interrupt)
	err = cs.RoundTrip(req, resp, exchange.Options{
		HeaderTimeout: g.timeout,
		Informational: func(resp *exchange.Response) error { return s.WriteInformational(req, resp) },
	})
	if err != nil {
		cs.Finish(req)
		s.OnCancel(nil)
		g.refuse(s, 502, err)
		return
	}
	s.WriteResponse(req, resp)
	cs.Finish(req)
	s.OnCancel(nil)
}

func (g *gate) refuse(s *ServerStream, status int, err error) {
	resp := &s.Exchange().Response
	resp.Reset()
	text := err.Error()
	resp.Local, resp.Status, resp.Body, resp.Length = true, status, exchange.NewBytes([]byte(text)), int64(len(text))
	s.WriteResponse(&s.Exchange().Request, resp)
}

// newGate gives the address of a gate in front of an upstream that handler
// serves with net/http, and the gate.
func newGate(t testing.TB, handler http.Handler) (string, *gate) {
	t.Helper()
	up := httptest.NewUnstartedServer(handler)
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	return startGate(t, up.Listener.Addr().String())
}

func startGate(t testing.TB, upstream string) (string, *gate) {
	t.Helper()
	g := &gate{}
	nc, err := net.Dial("tcp", upstream)
	if err != nil {
		t.Fatal(err)
	}
	g.upstream = g.codec.Client(nc, ClientOptions{})
	t.Cleanup(func() { g.upstream.Close() })
	return g.listen(t), g
}

// listen has the gate accept connections.
func (g *gate) listen(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return g.serve(t, l)
}

func (g *gate) serve(t testing.TB, l net.Listener) string {
	t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				s := g.codec.Server(nc, ServerOptions{Exchanges: &g.exchanges, ExtendedConnect: true})
				if err := s.Serve(ctx, g.handle); err != nil && !errors.Is(err, ErrClosed) {
					t.Logf("serve: %v", err)
				}
				s.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); wg.Wait() })
	return l.Addr().String()
}

// newClient gives a client of net/http that speaks HTTP/2 with prior knowledge.
func newClient(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, TLSClientConfig: &tls.Config{}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
}

func TestGoThroughGate(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Path", r.URL.String())
		fmt.Fprintf(w, "hello %s %s", r.Method, r.Host)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		n, err := io.Copy(w, r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-Up")))
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
	})
	addr, _ := newGate(t, mux)
	client := newClient(t)
	base := "http://" + addr

	t.Run("get", func(t *testing.T) {
		resp, err := client.Get(base + "/hello?a=b&c")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "hello GET "+addr || resp.Header.Get("X-Path") != "/hello?a=b&c" || resp.ProtoMajor != 2 {
			t.Errorf("%q %v %v", body, err, resp)
		}
	})
	t.Run("head", func(t *testing.T) {
		resp, err := client.Head(base + "/hello")
		if err != nil {
			t.Fatal(err)
		}
		if resp.ContentLength <= 0 {
			t.Errorf("%v", resp)
		}
	})
	for _, code := range []int{204, 304, 404, 500} {
		resp, err := client.Get(fmt.Sprint(base, "/status/", code))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != code {
			t.Errorf("%d: %d", code, resp.StatusCode)
		}
	}
	for _, size := range []int{0, 1, 1000, 16384, 70000, 3 << 20} {
		t.Run(fmt.Sprint("echo ", size), func(t *testing.T) {
			data := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			req, _ := http.NewRequest("POST", base+"/echo", io.MultiReader(bytes.NewReader(data)))
			req.Trailer = http.Header{"X-Up": {"yes"}}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(body, data) {
				t.Fatalf("%d bytes, %v", len(body), err)
			}
			if got := resp.Trailer.Get("X-Sum"); got != fmt.Sprint(size, "yes") {
				t.Errorf("trailer %q", got)
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for j := range 20 {
					data := strings.Repeat(fmt.Sprint(i, "-", j, " "), 1000)
					resp, err := client.Post(base+"/echo", "text/plain", strings.NewReader(data))
					if err != nil {
						t.Error(err)
						return
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil || string(body) != data {
						t.Errorf("%d bytes of %d, %v", len(body), len(data), err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
