package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sallyport/pkg/exchange"
)

func TestRequestFields(t *testing.T) {
	got := make(chan string, 1)
	p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
		r := &s.Exchange().Request
		text := fmt.Sprint(r.Version, " ", r.Method, " ", r.Scheme, " ", r.Authority, " ", r.Path, " ", r.Query, " ", r.HasQuery, " ", r.Form, " ", r.Length, " ", r.WantsTrailers, " ", r.ExpectContinue, " ", r.Body != nil)
		for name, value := range r.Header.All() {
			text += " " + name + "=" + value
		}
		got <- text
		strict(s)
	})
	for i, c := range []struct {
		end    bool
		fields []string
		want   string
	}{
		{true, []string{":method", "GET", ":scheme", "https", ":authority", "a.test:8443", ":path", "/p?q=1?2", "cookie", "a=b", "x", "1", "cookie", "c=d", "te", "trailers", "http2-settings", "x"},
			"2 GET https a.test:8443 /p q=1?2 true 0 0 true false false cookie=a=b; c=d x=1"},
		{true, []string{":method", "GET", ":scheme", "http", ":path", "/?", "host", "h"}, "2 GET http h /  true 0 0 false false false host=h"},
		{false, []string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/", "content-length", "3", "expect", "100-continue"},
			"2 POST https a /  false 0 3 false true true content-length=3 expect=100-continue"},
		{false, []string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/"}, "2 POST https a /  false 0 -1 false false true"},
		{true, []string{":method", "CONNECT", ":authority", "a:443"}, "2 CONNECT  a:443   false 2 -1 false false true"},
	} {
		id := uint32(2*i + 1)
		p.headers(id, c.end, c.fields...)
		if text := <-got; text != c.want {
			t.Errorf("got  %q\nwant %q", text, c.want)
		}
		if !c.end {
			p.WriteData(id, true, []byte("abc"))
		}
		p.want(fmt.Sprint("headers ", id, " :status=200 end"))
	}
}

// TestNeverIndexed has what a client keeps out of the tables kept out on the
// way on, whatever was remembered of the same field before.
func TestNeverIndexed(t *testing.T) {
	up, cc, _ := serverPeer(t, ClientOptions{})
	g := &gate{upstream: cc}
	a, b := tcpPair(t)
	srv := g.codec.Server(a, ServerOptions{Exchanges: &g.exchanges})
	done := make(chan struct{})
	go func() { srv.Serve(t.Context(), g.handle); srv.Close(); close(done) }()
	t.Cleanup(func() { b.Close(); <-done })
	p := newPeer(t, b)
	io.WriteString(b, preface)
	p.WriteSettings()
	for i, never := range []bool{false, true, true, false} {
		id := uint32(2*i + 1)
		block := p.block(getFields...)
		p.buf.Reset()
		p.enc.WriteField(hpack.HeaderField{Name: "x-key", Value: "secret", Sensitive: never})
		block = append(block, p.buf.Bytes()...)
		p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: true, EndHeaders: true})
		want := fmt.Sprint("headers ", id, " :method=GET :scheme=https :authority=a.test :path=/ x-key=secret")
		if never {
			want += "(never indexed)"
		}
		up.want(want + " end")
		up.status(id, true, "200")
		p.want(fmt.Sprint("headers ", id, " :status=200 end"))
	}
}

func TestResponseFields(t *testing.T) {
	for _, c := range []struct {
		name, method string
		fill         func(r *exchange.Response)
		want         []string
	}{
		{"hop-by-hop and Alt-Svc", "GET", func(r *exchange.Response) {
			for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Proxy-Connection", "Alt-Svc", "TE", "X-Kept"} {
				r.Header.Add(name, "v")
			}
			r.Status, r.Length = 200, exchange.UnknownLength
		}, []string{"headers 1 :status=200 x-kept=v end"}},
		{"length stays in its place", "GET", func(r *exchange.Response) {
			r.Header.Add("Content-Length", "2")
			r.Header.Add("A", "b")
			r.Status, r.Length, r.Body = 200, 2, exchange.NewBytes([]byte("ok"))
		}, []string{"headers 1 :status=200 content-length=2 a=b", "data 1 2 end"}},
		{"length is added", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 2, exchange.NewBytes([]byte("ok"))
		}, []string{"headers 1 :status=200 content-length=2", "data 1 2 end"}},
		{"trailers", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, exchange.NewBytes([]byte("ok"))
			r.Trailer.Add("Grpc-Status", "0")
		}, []string{"headers 1 :status=200", "data 1 2", "headers 1 grpc-status=0 end"}},
		{"trailers without content", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, exchange.NewBytes(nil)
			r.Trailer.Add("Grpc-Status", "0")
		}, []string{"headers 1 :status=200", "headers 1 grpc-status=0 end"}},
		{"HEAD", "HEAD", func(r *exchange.Response) { r.Header.Add("Content-Length", "7"); r.Status, r.Length = 200, 7 }, []string{"headers 1 :status=200 content-length=7 end"}},
		{"304", "GET", func(r *exchange.Response) { r.Header.Add("Content-Length", "7"); r.Status, r.Length = 304, 7 }, []string{"headers 1 :status=304 content-length=7 end"}},
		{"204", "GET", func(r *exchange.Response) { r.Header.Add("Content-Length", "0"); r.Status = 204 }, []string{"headers 1 :status=204 end"}},
		{"content shorter than declared", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 3, exchange.NewBytes([]byte("ok"))
		}, []string{"reset 1 INTERNAL_ERROR"}},
		{"content longer than declared", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 1, exchange.NewBytes([]byte("ok"))
		}, []string{"reset 1 INTERNAL_ERROR"}},
		{"no content where some is declared", "GET", func(r *exchange.Response) { r.Status, r.Length = 200, 1 }, []string{"reset 1 INTERNAL_ERROR"}},
		{"invalid field", "GET", func(r *exchange.Response) { r.Status = 200; r.Header.Add("a", "b\nc") }, []string{"reset 1 INTERNAL_ERROR"}},
		{"invalid status", "GET", func(r *exchange.Response) { r.Status = 101 }, []string{"reset 1 INTERNAL_ERROR"}},
		{"nothing", "GET", nil, []string{"reset 1 INTERNAL_ERROR"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
				if c.fill == nil {
					return
				}
				x := s.Exchange()
				c.fill(&x.Response)
				s.WriteResponse(&x.Request, &x.Response)
			})
			p.headers(1, true, append([]string{":method", c.method}, getFields[2:]...)...)
			p.want(c.want...)
			p.sync()
		})
	}
}

func TestSourceFails(t *testing.T) {
	p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
		body, w := newSlowBody()
		x := s.Exchange()
		x.Response.Status, x.Response.Length, x.Response.Body = 200, exchange.UnknownLength, body
		go func() {
			w.Write([]byte("part"))
			var err error = io.ErrUnexpectedEOF
			if s.id == 3 {
				err = &ResetError{Code: Cancel}
			}
			w.CloseWithError(err)
		}()
		n, err := s.WriteResponse(&x.Request, &x.Response)
		var source *exchange.SourceError
		if n != 4 || !errors.As(err, &source) {
			t.Error(n, err)
		}
	})
	p.get(1)
	p.want("headers 1 :status=200", "data 1 4", "reset 1 INTERNAL_ERROR")
	p.get(3)
	p.want("headers 3 :status=200", "data 3 4", "reset 3 CANCEL")
}

func TestCancel(t *testing.T) {
	t.Run("reset", func(t *testing.T) {
		var calls atomic.Int32
		cancelled, handled := make(chan struct{}), make(chan error, 1)
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			s.OnCancel(func() { calls.Add(1); close(cancelled) })
			<-cancelled
			if !s.Cancelled() {
				t.Error("not cancelled")
			}
			_, err := reply(s, 200, "late")
			_, rerr := s.Exchange().Request.Body.Read(make([]byte, 10))
			handled <- errors.Join(err, rerr)
		})
		p.post(1)
		p.sync()
		p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		var sink *exchange.SinkError
		if err := <-handled; !errors.As(err, &sink) || !strings.Contains(err.Error(), "CANCEL") {
			t.Error(err)
		}
		p.sync()
		if calls.Load() != 1 {
			t.Error(calls.Load())
		}
	})
	t.Run("end of the connection", func(t *testing.T) {
		handled := make(chan struct{})
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			gone := make(chan struct{})
			s.OnCancel(func() { close(gone) })
			<-gone
			close(handled)
		})
		p.get(1)
		p.sync()
		p.nc.Close()
		<-handled
	})
	t.Run("before it was asked for", func(t *testing.T) {
		seen, asked := make(chan struct{}), make(chan struct{})
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			<-seen
			s.OnCancel(func() { close(asked) })
		})
		p.get(1)
		p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		p.sync()
		close(seen)
		<-asked
	})
	t.Run("taken back", func(t *testing.T) {
		seen, done := make(chan struct{}), make(chan struct{})
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			s.OnCancel(func() { t.Error("called") })
			s.OnCancel(nil)
			close(seen)
			<-done
		})
		p.get(1)
		<-seen
		p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		p.sync()
		close(done)
	})
}

func TestEarlyResponse(t *testing.T) {
	p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) { reply(s, 413, "too much") })
	p.post(1, "content-length", "100000")
	p.want("headers 1 :status=413 content-length=8", "data 1 8 end", "reset 1 NO_ERROR")
	p.WriteData(1, false, make([]byte, 16384))
	p.get(3)
	p.want("headers 3 :status=413 content-length=8", "data 3 8 end")
}

func TestInformational(t *testing.T) {
	p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
		x := s.Exchange()
		x.Response.Status = 100
		if err := s.WriteInformational(&x.Request, &x.Response); err != nil {
			t.Error(err)
		}
		x.Response.Status = 101
		if err := s.WriteInformational(&x.Request, &x.Response); err != exchange.ErrInvalidField {
			t.Error(err)
		}
		strict(s)
	})
	p.post(1, "expect", "100-continue")
	p.want("headers 1 :status=100")
	p.WriteData(1, true, []byte("now"))
	p.want("headers 1 :status=200 end")
}

// TestExtendedConnect carries a WebSocket through a gate, both ways at a time
// (RFC 8441).
func TestExtendedConnect(t *testing.T) {
	var codec Codec
	upstream := make(chan string, 10)
	up := servePair(t, &codec, func(s *ServerStream) {
		x := s.Exchange()
		req := &x.Request
		upstream <- fmt.Sprint(req.Method, " ", req.Upgrade, " ", req.Path, " ", req.Header.Get("sec-websocket-version"))
		if req.Path == "/no" {
			reply(s, 404, "none")
			return
		}
		// Echo.
		x.Response.Status, x.Response.Length, x.Response.Body = 200, exchange.UnknownLength, req.Body
		if _, err := s.WriteResponse(req, &x.Response); err != nil {
			upstream <- err.Error()
		} else {
			upstream <- "closed"
		}
	})
	if !up.ExtendedConnect() {
		t.Fatal("not told")
	}
	g := &gate{upstream: up}
	a, b := tcpPair(t)
	srv := g.codec.Server(a, ServerOptions{Exchanges: &g.exchanges, ExtendedConnect: true})
	done := make(chan struct{})
	go func() { srv.Serve(context.Background(), g.handle); srv.Close(); close(done) }()
	t.Cleanup(func() { b.Close(); <-done })
	p := newPeer(t, b)
	io.WriteString(b, preface)
	p.WriteSettings()
	connect := func(id uint32, path string) {
		p.headers(id, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a.test", ":path", path, "sec-websocket-version", "13")
	}
	connect(1, "/chat?x")
	p.want("headers 1 :status=200")
	if got := <-upstream; got != "CONNECT websocket /chat 13" {
		t.Error(got)
	}
	for i := range 10 {
		p.WriteData(1, false, make([]byte, i+1))
		p.want(fmt.Sprint("data 1 ", i+1))
	}
	p.WriteData(1, true, nil)
	p.want("data 1 0 end")
	if got := <-upstream; got != "closed" {
		t.Error(got)
	}
	connect(3, "/no")
	p.want("headers 3 :status=404 content-length=4", "data 3 4 end", "reset 3 NO_ERROR")
	<-upstream
	connect(5, "/cut")
	p.want("headers 5 :status=200")
	<-upstream
	p.WriteRSTStream(5, xhttp2.ErrCodeCancel)
	if got := <-upstream; !strings.Contains(got, "CANCEL") {
		t.Error(got)
	}
}

// waitFor polls until ok.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}
