package http2

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"sallyport/pkg/exchange"
)

// benchRequest fills req as a usual client of an API does.
func benchRequest(req *exchange.Request) {
	req.Reset()
	req.Version, req.Method, req.Scheme, req.Authority = exchange.HTTP2, "POST", "https", "api.example.com"
	req.Path, req.Query, req.HasQuery = "/v1/search", "q=sallyport&page=1", true
	for _, f := range [][2]string{
		{"user-agent", "python-requests/2.34.0"}, {"accept-encoding", "gzip, deflate"}, {"accept", "*/*"},
		{"authorization", "Bearer 0123456789abcdef0123456789abcdef"}, {"content-type", "application/json"}, {"content-length", "64"},
	} {
		req.Header.Append(exchange.Field{Name: f[0], Value: f[1], ID: exchange.LookupName(f[0]), Checked: true})
	}
	req.Length, req.Body = 64, exchange.NewBytes(benchQuestion)
}

var (
	benchQuestion = []byte(strings.Repeat("q", 64))
	benchAnswer   = []byte(strings.Repeat("a", 1024))
)

// answer1K is a server that answers every request with 1 KiB.
func answer1K(s *ServerStream) {
	x := s.Exchange()
	if x.Request.Body != nil {
		exchange.ReadAll(x.Request.Body, 1<<20)
	}
	resp := &x.Response
	resp.Status, resp.Version = 200, exchange.HTTP2
	for _, f := range [][2]string{
		{"server", "nginx/1.22.1"}, {"date", "Sun, 22 Nov 2026 10:00:00 GMT"}, {"content-type", "application/json"},
		{"content-length", "1024"}, {"etag", "\"5f3e-1\""}, {"cache-control", "no-cache"},
	} {
		resp.Header.Append(exchange.Field{Name: f[0], Value: f[1], ID: exchange.LookupName(f[0]), Checked: true})
	}
	resp.Length, resp.Body = 1024, exchange.NewBytes(benchAnswer)
	s.WriteResponse(&x.Request, resp)
}

// servePair gives a client connection to a server that runs handle.
func servePair(tb testing.TB, codec *Codec, handle func(*ServerStream)) *ClientConn {
	a, b := tcpPair(tb)
	srv := codec.Server(a, ServerOptions{Exchanges: new(exchange.Pool), ExtendedConnect: true, MaxStreams: 256})
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(context.Background(), handle)
		srv.Close()
	}()
	cc := codec.Client(b, ClientOptions{})
	tb.Cleanup(func() { cc.Close(); <-done })
	if _, err := cc.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return cc
}

func tcpPair(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	b, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	a, err = l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// cpu gives the processor time of the process, in ns.
func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

// parallel runs do b.N times from n goroutines. It also reports processor time,
// which says more than the clock on a machine that others use too.
func parallel(b *testing.B, n int, do func()) {
	b.ReportAllocs()
	b.ResetTimer()
	begin := cpu()
	defer func() { b.ReportMetric((cpu()-begin)/float64(b.N), "cpu-ns/op") }()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				do()
			}
		})
	}
	wg.Wait()
}

// BenchmarkRequest is one request over loopback between our client and our
// server, then the same with those of net/http.
func BenchmarkRequest(b *testing.B) {
	for name, n := range map[string]int{"1": 1, "32": 32, "100": 100} {
		b.Run("ours/"+name, func(b *testing.B) {
			var codec Codec
			var pool exchange.Pool
			cc := servePair(b, &codec, answer1K)
			parallel(b, n, func() {
				x := pool.Get()
				defer pool.Put(x)
				s, err := cc.Open()
				if err != nil {
					b.Error(err)
					return
				}
				benchRequest(&x.Request)
				if err := s.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
					b.Error(err)
					return
				}
				for {
					p, last := x.Response.Body.Buffered()
					x.Response.Body.Discard(len(p))
					if last {
						break
					}
					var one [1]byte
					if _, err := x.Response.Body.Read(one[:]); err == io.EOF {
						break
					}
				}
				s.Finish(&x.Request)
			})
		})
		b.Run("net-http/"+name, func(b *testing.B) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				h := w.Header()
				h["Content-Type"], h["Etag"], h["Cache-Control"] = []string{"application/json"}, []string{`"5f3e-1"`}, []string{"no-cache"}
				w.Write(benchAnswer)
			}))
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			defer srv.Close()
			client := newClient(b)
			parallel(b, n, func() {
				req, _ := http.NewRequest("POST", srv.URL+"/v1/search?q=sallyport&page=1", strings.NewReader(string(benchQuestion)))
				req.Header["Authorization"] = []string{"Bearer 0123456789abcdef0123456789abcdef"}
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		})
	}
}

// BenchmarkGate is one request of 1 KiB through a gate, with our codec on both
// legs and with net/http's, between the same client and server.
func BenchmarkGate(b *testing.B) {
	const streams = 64
	run := func(b *testing.B, upstream func(addr string) string) {
		var codec Codec
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				go codec.Server(nc, ServerOptions{Exchanges: new(exchange.Pool)}).Serve(ctx, answer1K)
			}
		}()
		nc, err := net.Dial("tcp", upstream(l.Addr().String()))
		if err != nil {
			b.Fatal(err)
		}
		cc := codec.Client(nc, ClientOptions{})
		defer cc.Close()
		var pool exchange.Pool
		parallel(b, streams, func() {
			x := pool.Get()
			defer pool.Put(x)
			s, err := cc.Open()
			if err != nil {
				b.Error(err)
				return
			}
			benchRequest(&x.Request)
			if err := s.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
				b.Error(err)
				return
			}
			exchange.ReadAll(x.Response.Body, 1<<20)
			s.Finish(&x.Request)
		})
	}
	b.Run("none", func(b *testing.B) { run(b, func(addr string) string { return addr }) })
	b.Run("ours", func(b *testing.B) {
		run(b, func(addr string) string {
			at, _ := startGate(b, addr)
			return at
		})
	})
	b.Run("net-http", func(b *testing.B) {
		run(b, func(addr string) string {
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetUnencryptedHTTP2(true)
			proxy.Transport = tr
			srv := httptest.NewUnstartedServer(proxy)
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			b.Cleanup(srv.Close)
			return srv.Listener.Addr().String()
		})
	})
}

// BenchmarkBulk streams 1 MiB down one stream.
func BenchmarkBulk(b *testing.B) {
	var codec Codec
	data := make([]byte, 1<<20)
	cc := servePair(b, &codec, func(s *ServerStream) {
		x := s.Exchange()
		x.Response.Status, x.Response.Length, x.Response.Body = 200, int64(len(data)), exchange.NewBytes(data)
		s.WriteResponse(&x.Request, &x.Response)
	})
	b.SetBytes(int64(len(data)))
	buf := make([]byte, 64<<10)
	var x exchange.Exchange
	parallel(b, 1, func() {
		s, err := cc.Open()
		if err != nil {
			b.Fatal(err)
		}
		benchRequest(&x.Request)
		x.Request.Body, x.Request.Length = nil, 0
		if err := s.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := x.Response.Body.Read(buf); err != nil {
				break
			}
		}
		s.Finish(&x.Request)
	})
}
