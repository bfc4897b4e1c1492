package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"sallyport/pkg/exchange"
)

// request makes a request of our client.
func request(method string, body exchange.Body, length int64) *exchange.Request {
	req := &exchange.Request{Version: exchange.HTTP2, Method: method, Scheme: "https", Authority: "a.test", Path: "/", Body: body, Length: length}
	req.Header.Add("X-Mixed", "Case")
	return req
}

// A result is what became of an exchange.
type result struct {
	resp       exchange.Response
	body       string
	err        error // of RoundTrip
	bodyErr    error
	interim    []int
	reusable   bool
	finishErr  error
	trip       *exchange.RoundTripError
	unopened   bool
	sent       int64
	bodyLength int64
}

func (r *result) String() string {
	switch {
	case r.err != nil:
		return fmt.Sprintf("%v replayable=%v unprocessed=%v", r.err, r.trip != nil && r.trip.Replayable, r.trip != nil && r.trip.Unprocessed)
	case r.bodyErr != nil:
		return fmt.Sprintf("%d %q %v", r.resp.Status, r.body, r.bodyErr)
	default:
		s := fmt.Sprintf("%d %q", r.resp.Status, r.body)
		for name, value := range r.resp.Trailer.All() {
			s += " " + name + "=" + value
		}
		return s
	}
}

// do runs one exchange.
func do(cc *ClientConn, req *exchange.Request, opts exchange.Options) *result {
	r := &result{}
	s, err := cc.Open()
	if err != nil {
		r.err, r.unopened = err, true
		return r
	}
	if opts.Informational == nil {
		opts.Informational = func(resp *exchange.Response) error { r.interim = append(r.interim, resp.Status); return nil }
	}
	r.err = s.RoundTrip(req, &r.resp, opts)
	errors.As(r.err, &r.trip)
	if r.err == nil && r.resp.Body != nil {
		var b []byte
		b, r.bodyErr = io.ReadAll(r.resp.Body)
		r.body, r.bodyLength = string(b), r.resp.Body.Transferred()
	}
	r.reusable, r.finishErr = s.Finish(req)
	r.sent = s.out.sent
	return r
}

// begin runs one exchange in the background.
func begin(cc *ClientConn, req *exchange.Request, opts exchange.Options) <-chan *result {
	ch := make(chan *result, 1)
	go func() { ch <- do(cc, req, opts) }()
	return ch
}

const getHead = "headers 1 :method=GET :scheme=https :authority=a.test :path=/ x-mixed=Case end"

func (p *peer) status(id uint32, end bool, status string, more ...string) {
	p.headers(id, end, append([]string{":status", status}, more...)...)
}

// start reads what our client says first.
func (p *peer) start(head string) {
	p.t.Helper()
	p.want(head)
}

// TestClientConformance does by hand, section by section of RFC 9113, what a
// server may do or must not, and looks at what our client makes of it and what
// it sends.
func TestClientConformance(t *testing.T) {
	const nothing = ""
	mal := func(text string) string {
		return "read response: malformed message: " + text + " replayable=false unprocessed=false"
	}
	for _, c := range []struct {
		section, name string
		method        string
		send          func(p *peer)
		want          string // prefix
		answer        string // what our client sends
	}{
		{"8.1", "response", "GET", func(p *peer) { p.status(1, false, "200"); p.WriteData(1, true, []byte("hello")) }, `200 "hello"`, nothing},
		{"8.1", "response without content", "GET", func(p *peer) { p.status(1, true, "200") }, `200 ""`, nothing},
		{"8.1", "trailers", "GET", func(p *peer) {
			p.status(1, false, "200")
			p.WriteData(1, false, []byte("hello"))
			p.headers(1, true, "grpc-status", "0", "content-length", "9")
		}, `200 "hello" grpc-status=0`, nothing},
		{"8.1", "empty content and trailers", "GET", func(p *peer) { p.status(1, false, "200"); p.headers(1, true, "grpc-status", "0") }, `200 "" grpc-status=0`, nothing},
		{"8.1", "trailers that do not end the stream", "GET", func(p *peer) { p.status(1, false, "200"); p.headers(1, false, "a", "b") }, `200 "" stream was reset`, "reset 1 PROTOCOL_ERROR"},
		{"8.1", "pseudo-header field in trailers", "GET", func(p *peer) { p.status(1, false, "200"); p.headers(1, true, ":status", "200") }, `200 "" stream was reset`, "reset 1 PROTOCOL_ERROR"},
		{"8.1", "DATA before HEADERS", "GET", func(p *peer) { p.WriteData(1, true, []byte("hello")) }, mal("DATA before HEADERS"), "reset 1 PROTOCOL_ERROR"},
		{"8.1", "DATA behind END_STREAM", "POST", func(p *peer) { p.status(1, true, "200"); p.WriteData(1, true, []byte("hello")) }, `200 ""`, "reset 1 STREAM_CLOSED"},
		{"8.1.1", "content shorter than declared", "GET", func(p *peer) { p.status(1, false, "200", "content-length", "6"); p.WriteData(1, true, []byte("hello")) }, `200 "" stream was reset`, "reset 1 PROTOCOL_ERROR"},
		{"8.1.1", "content longer than declared", "GET", func(p *peer) { p.status(1, false, "200", "content-length", "4"); p.WriteData(1, true, []byte("hello")) }, `200 "" stream was reset`, "reset 1 PROTOCOL_ERROR"},
		{"8.1.1", "no content where some is declared", "GET", func(p *peer) { p.status(1, true, "200", "content-length", "4") }, mal("stream shorter than its Content-Length"), nothing},
		{"8.1.1", "HEAD", "HEAD", func(p *peer) { p.status(1, true, "200", "content-length", "4") }, `200 ""`, nothing},
		{"8.1.1", "content in the response to HEAD", "HEAD", func(p *peer) { p.status(1, false, "200", "content-length", "4"); p.WriteData(1, true, []byte("four")) }, `200 ""`, "reset 1 "},
		{"8.1.1", "304", "GET", func(p *peer) { p.status(1, true, "304", "content-length", "4") }, `304 ""`, nothing},
		{"8.1.1", "204 with content-length", "GET", func(p *peer) { p.status(1, true, "204", "content-length", "4") }, `204 ""`, nothing},
		{"8.1.1", "content-length 0 and an empty DATA", "GET", func(p *peer) { p.status(1, false, "200", "content-length", "0"); p.WriteData(1, true, nil) }, `200 ""`, nothing},
		{"8.2", "field name in upper case", "GET", func(p *peer) { p.status(1, true, "200", "X-A", "b") }, mal("character in a field name that no name may hold"), nothing},
		{"8.2.2", "connection", "GET", func(p *peer) { p.status(1, false, "200", "connection", "close") }, mal("field that concerns a connection of HTTP/1"), "reset 1 PROTOCOL_ERROR"},
		{"8.3.2", "no :status", "GET", func(p *peer) { p.headers(1, true, "a", "b") }, mal("pseudo-header fields that are not those of a response"), nothing},
		{"8.3.2", ":status that is no number", "GET", func(p *peer) { p.status(1, true, "2xx") }, mal("status that is not a number from 100 to 999"), nothing},
		{"8.3.2", ":path in a response", "GET", func(p *peer) { p.status(1, true, "200", ":path", "/") }, mal("pseudo-header fields that are not those of a response"), nothing},
		{"8.4", "PUSH_PROMISE", "GET", func(p *peer) {
			p.WritePushPromise(xhttp2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.block(getFields...), EndHeaders: true})
		}, "read response: HTTP/2 connection: PUSH_PROMISE, which was not allowed (PROTOCOL_ERROR) replayable=true", "goaway 0 PROTOCOL_ERROR"},
		{"8.6", "101", "GET", func(p *peer) { p.status(1, true, "101") }, mal("101 in HTTP/2"), nothing},
		{"15.2", "interim responses", "GET", func(p *peer) {
			p.status(1, false, "100")
			p.status(1, false, "103", "link", "<a>")
			p.status(1, true, "200")
		}, `200 ""`, nothing},
		{"15.2", "interim response that ends the stream", "GET", func(p *peer) { p.status(1, true, "103") }, mal("interim response that ends the stream"), nothing},
		{"5.1", "HEADERS on an idle stream", "GET", func(p *peer) { p.status(3, true, "200") }, "read response: HTTP/2 connection: HEADERS on an idle stream", "goaway 0 PROTOCOL_ERROR"},
		{"5.1", "HEADERS on a stream of the server's own", "GET", func(p *peer) { p.status(2, true, "200") }, "read response: HTTP/2 connection: HEADERS on an idle stream", "goaway 0 PROTOCOL_ERROR"},
		{"6.4", "RST_STREAM", "GET", func(p *peer) { p.WriteRSTStream(1, xhttp2.ErrCodeInternal) }, "read response: stream was reset by the peer (INTERNAL_ERROR) replayable=false unprocessed=false", nothing},
		{"8.7", "REFUSED_STREAM", "GET", func(p *peer) { p.WriteRSTStream(1, xhttp2.ErrCodeRefusedStream) }, "read response: stream was reset by the peer (REFUSED_STREAM) replayable=true unprocessed=true", nothing},
		{"6.4", "RST_STREAM within the content", "GET", func(p *peer) {
			p.status(1, false, "200")
			p.WriteData(1, false, []byte("hel"))
			p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		}, `200 "hel" stream was reset by the peer (CANCEL)`, nothing},
		{"6.5.2", "ENABLE_PUSH from a server", "GET", func(p *peer) { p.WriteSettings(xhttp2.Setting{ID: 2, Val: 1}) }, "read response: HTTP/2 connection: invalid SETTINGS_ENABLE_PUSH", "goaway 0 PROTOCOL_ERROR"},
		{"6.8", "GOAWAY below the stream", "GET", func(p *peer) { p.WriteGoAway(0, xhttp2.ErrCodeNo, nil) }, "read response: GOAWAY from the peer (NO_ERROR) replayable=true unprocessed=true", nothing},
		{"6.8", "GOAWAY at the stream, which finishes", "GET", func(p *peer) { p.WriteGoAway(1, xhttp2.ErrCodeNo, nil); p.status(1, true, "200") }, `200 ""`, nothing},
		{"6.8", "end of the connection", "GET", func(p *peer) { p.nc.Close() }, "read response: unexpected EOF replayable=true unprocessed=false", nothing},
		{"6.8", "GOAWAY with an error and the end", "GET", func(p *peer) { p.WriteGoAway(1, xhttp2.ErrCodeEnhanceYourCalm, nil); p.nc.Close() }, "read response: GOAWAY from the peer (ENHANCE_YOUR_CALM) replayable=true unprocessed=false", nothing},
		{"6.8", "end of the connection within the content", "GET", func(p *peer) {
			p.status(1, false, "200")
			p.WriteData(1, false, []byte("hel"))
			p.nc.Close()
		}, `200 "hel" unexpected EOF`, nothing},
		{"10.5.1", "header list over 256 fields", "GET", func(p *peer) {
			p.status(1, true, "200", strings.Split(strings.Repeat("a b ", 257)[:257*4-1], " ")...)
		}, mal("header section over 64 KiB or 256 fields"), nothing},
		{"10.5", "interim responses without end", "GET", func(p *peer) {
			for range 200 {
				p.status(1, false, "103")
			}
		}, mal("too many interim responses"), "reset 1 ENHANCE_YOUR_CALM"},
	} {
		t.Run(c.section+" "+c.name, func(t *testing.T) {
			p, cc, _ := serverPeer(t, ClientOptions{})
			done := begin(cc, request(c.method, nil, 0), exchange.Options{})
			p.start(strings.Replace(getHead, "GET", c.method, 1))
			c.send(p)
			r := <-done
			if !strings.HasPrefix(r.String(), c.want) {
				t.Errorf("got %s, want %s", r, c.want)
			}
			if strings.HasPrefix(c.answer, "goaway") == r.reusable && !strings.HasPrefix(c.section, "6.8") {
				t.Errorf("reusable %v", r.reusable)
			}
			if c.section != "6.8" || c.answer != "" {
				p.WritePing(false, [8]byte{})
			} else {
				return
			}
			want := c.answer
			if want == "" {
				want = "pong"
			}
			if got := p.next(); !strings.HasPrefix(got, want) {
				t.Errorf("our client sent %q, want %q", got, want)
			}
		})
	}
}

func TestClientFields(t *testing.T) {
	p, cc, _ := serverPeer(t, ClientOptions{})
	req := &exchange.Request{Method: "POST", Scheme: "https", Authority: "a.test:8443", Path: "/p", Query: "q=1", HasQuery: true,
		Body: exchange.NewBytes([]byte("hello")), Length: 5, WantsTrailers: true}
	for _, f := range [][2]string{{"Host", "ignored"}, {"Connection", "close"}, {"Transfer-Encoding", "chunked"}, {"Keep-Alive", "1"}, {"Upgrade", "x"},
		{"User-Agent", "me"}, {"Content-Length", "7"}, {"Authorization", "Bearer x"}, {"X-One", "Two"}} {
		req.Header.Add(f[0], f[1])
	}
	done := begin(cc, req, exchange.Options{})
	p.want("headers 1 :method=POST :scheme=https :authority=a.test:8443 :path=/p?q=1 content-length=5 user-agent=me authorization=Bearer x(never indexed) x-one=Two te=trailers",
		"data 1 5 end")
	p.status(1, true, "200")
	<-done

	for name, spoil := range map[string]func(*exchange.Request){
		"method": func(r *exchange.Request) { r.Method = "G T" }, "path": func(r *exchange.Request) { r.Path = "/ a" },
		"query": func(r *exchange.Request) { r.Query = "a b" }, "field": func(r *exchange.Request) { r.Header.Add("a", "b\r\nc: d") },
		"name": func(r *exchange.Request) { r.Header.Add(":path", "/") }, "empty name": func(r *exchange.Request) { r.Header.Add("", "/") },
		"CONNECT": func(r *exchange.Request) { r.Method = "CONNECT" }, "authority": func(r *exchange.Request) { r.Authority = "a b" },
	} {
		req := request("GET", nil, 0)
		spoil(req)
		if r := do(cc, req, exchange.Options{}); !errors.Is(r.err, exchange.ErrInvalidField) || !r.reusable {
			t.Errorf("%s: %v", name, r)
		}
	}
	// Nothing of them got onto the wire or into the tables.
	done = begin(cc, request("GET", nil, 0), exchange.Options{})
	p.want(strings.Replace(getHead, "headers 1", "headers 3", 1))
	p.status(3, true, "200")
	if r := <-done; r.err != nil {
		t.Error(r)
	}
}

func TestClientPlaces(t *testing.T) {
	p, cc, _ := serverPeer(t, ClientOptions{}, xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 2})
	a := begin(cc, request("GET", nil, 0), exchange.Options{})
	p.want(getHead)
	b := begin(cc, request("GET", nil, 0), exchange.Options{})
	p.want(strings.Replace(getHead, "headers 1", "headers 3", 1))
	if _, err := cc.Open(); err != ErrStreamsExhausted {
		t.Errorf("%v", err)
	}
	// What is open stays open when the server allows less.
	p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 1})
	p.WritePing(false, [8]byte{})
	p.want("pong")
	p.status(1, true, "200")
	if r := <-a; r.err != nil || !r.reusable {
		t.Error(r)
	}
	if _, err := cc.Open(); err != ErrStreamsExhausted || taken(cc) != 1 {
		t.Errorf("%v %d", err, taken(cc))
	}
	p.WriteGoAway(3, xhttp2.ErrCodeNo, nil)
	p.WritePing(false, [8]byte{})
	p.want("pong")
	if _, err := cc.Open(); err != ErrGoingAway || cc.Usable() {
		t.Errorf("%v", err)
	}
	p.status(3, true, "200")
	if r := <-b; r.err != nil || r.reusable {
		t.Error(r, r.reusable)
	}
}

// A slowBody is a body that comes when the test says so.
type slowBody struct {
	*io.PipeReader
	w *io.PipeWriter
}

func newSlowBody() (*slowBody, *io.PipeWriter) {
	r, w := io.Pipe()
	return &slowBody{r, w}, w
}

func (b *slowBody) Buffered() ([]byte, bool) { return nil, false }
func (b *slowBody) Discard(int)              {}
func (b *slowBody) Rewind() bool             { return false }
func (b *slowBody) Interrupt()               { b.w.CloseWithError(exchange.ErrInterrupted) }
func (b *slowBody) Complete() bool           { return false }
func (b *slowBody) Transferred() int64       { return 0 }

func TestClientEarlyResponse(t *testing.T) {
	postHead := "headers 1 :method=POST :scheme=https :authority=a.test :path=/ x-mixed=Case"
	t.Run("complete, then RST_STREAM(NO_ERROR)", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		body, w := newSlowBody()
		done := begin(cc, request("POST", body, exchange.UnknownLength), exchange.Options{})
		p.want(postHead)
		w.Write([]byte("part"))
		p.want("data 1 4")
		p.status(1, true, "413")
		p.WriteRSTStream(1, xhttp2.ErrCodeNo)
		if r := <-done; r.String() != `413 ""` || !r.reusable || r.finishErr != nil || r.sent != 4 {
			t.Error(r, r.finishErr, r.reusable, r.sent)
		}
		p.WritePing(false, [8]byte{})
		// Whether RST_STREAM crossed ours is a matter of time.
		if f := p.next(); f != "pong" && f != "reset 1 CANCEL" {
			t.Error(f)
		}
	})
	t.Run("complete", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		body, _ := newSlowBody()
		done := begin(cc, request("POST", body, exchange.UnknownLength), exchange.Options{})
		p.want(postHead)
		p.status(1, true, "200")
		if r := <-done; r.String() != `200 ""` || !r.reusable || r.finishErr != nil {
			t.Error(r, r.finishErr, r.reusable)
		}
		p.want("reset 1 CANCEL")
	})
	t.Run("request cut", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		body, w := newSlowBody()
		done := begin(cc, request("POST", body, exchange.UnknownLength), exchange.Options{})
		p.want(postHead)
		w.CloseWithError(io.ErrUnexpectedEOF)
		p.want("reset 1 CANCEL")
		var source *exchange.SourceError
		if r := <-done; r.trip == nil || r.trip.Op != "read request body" || !errors.As(r.finishErr, &source) || !r.reusable {
			t.Error(r, r.finishErr, r.reusable)
		}
	})
	t.Run("request interrupted by somebody else", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		body, _ := newSlowBody()
		done := begin(cc, request("POST", body, exchange.UnknownLength), exchange.Options{})
		p.want(postHead)
		body.Interrupt()
		p.want("reset 1 CANCEL")
		if r := <-done; r.trip == nil || r.trip.Op != "read request body" || !errors.Is(r.err, exchange.ErrInterrupted) {
			t.Error(r, r.finishErr, r.reusable)
		}
	})
	t.Run("another length than declared", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		body, w := newSlowBody()
		done := begin(cc, request("POST", body, 3), exchange.Options{})
		p.want(postHead + " content-length=3")
		go w.Write([]byte("four"))
		p.want("reset 1 CANCEL")
		if r := <-done; !errors.Is(r.err, exchange.ErrBodyLength) {
			t.Error(r)
		}
	})
	t.Run("both directions at a time", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		body, w := newSlowBody()
		s, _ := cc.Open()
		req, resp := request("POST", body, exchange.UnknownLength), new(exchange.Response)
		head := make(chan struct{})
		go func() {
			defer close(head)
			p.next()
			p.status(1, false, "200")
		}()
		if err := s.RoundTrip(req, resp, exchange.Options{}); err != nil {
			t.Fatal(err)
		}
		<-head
		var b [10]byte
		for i := range 5 {
			w.Write([]byte{'a' + byte(i)})
			p.want("data 1 1")
			p.WriteData(1, false, []byte{'A' + byte(i)})
			if n, err := resp.Body.Read(b[:]); n != 1 || b[0] != 'A'+byte(i) || err != nil {
				t.Fatal(n, err, b[0])
			}
		}
		w.Close()
		p.want("data 1 0 end")
		p.headers(1, true, "x-end", "1")
		if _, err := resp.Body.Read(b[:]); err != io.EOF || resp.Trailer.Get("x-end") != "1" {
			t.Error(err)
		}
		if ok, err := s.Finish(req); !ok || err != nil {
			t.Error(ok, err)
		}
	})
}

func TestClientTimeouts(t *testing.T) {
	t.Run("head", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		start := time.Now()
		done := begin(cc, request("GET", nil, 0), exchange.Options{HeaderTimeout: 60 * time.Millisecond})
		p.want(getHead, "reset 1 CANCEL")
		r := <-done
		if !errors.Is(r.err, ErrHeaderTimeout) || r.trip.Replayable || time.Since(start) < 50*time.Millisecond || !r.reusable {
			t.Error(r)
		}
		var timed interface{ Timeout() bool }
		if !errors.As(r.err, &timed) || !timed.Timeout() {
			t.Error("not a timeout")
		}
	})
	t.Run("head of a later, more patient one", func(t *testing.T) {
		p, cc, _ := serverPeer(t, ClientOptions{})
		a := begin(cc, request("GET", nil, 0), exchange.Options{HeaderTimeout: time.Hour})
		p.next()
		b := begin(cc, request("GET", nil, 0), exchange.Options{HeaderTimeout: 50 * time.Millisecond})
		p.next()
		p.want("reset 3 CANCEL")
		if r := <-b; !errors.Is(r.err, ErrHeaderTimeout) {
			t.Error(r)
		}
		p.status(1, true, "200")
		if r := <-a; r.err != nil {
			t.Error(r)
		}
	})
	t.Run("interrupt", func(t *testing.T) {
		p, cc, codec := serverPeer(t, ClientOptions{})
		s, _ := cc.Open()
		time.AfterFunc(30*time.Millisecond, s.Interrupt)
		req := request("GET", nil, 0)
		err := s.RoundTrip(req, new(exchange.Response), exchange.Options{})
		var trip *exchange.RoundTripError
		if !errors.As(err, &trip) || !errors.Is(err, exchange.ErrInterrupted) || trip.Replayable {
			t.Error(err)
		}
		if ok, err := s.Finish(req); !ok || err != nil {
			t.Error(ok, err)
		}
		s.Interrupt()
		p.want(getHead, "reset 1 CANCEL")
		_ = codec
	})
	t.Run("server that says nothing", func(t *testing.T) {
		_, b := tcpPair(t)
		cc := new(Codec).Client(b, ClientOptions{})
		defer cc.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if _, err := cc.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("server that is gone", func(t *testing.T) {
		a, b := tcpPair(t)
		a.Close()
		cc := new(Codec).Client(b, ClientOptions{})
		defer cc.Close()
		if _, err := cc.Start(t.Context()); err == nil {
			t.Error("no error")
		}
		<-cc.done
		if cc.Usable() {
			t.Error("usable")
		}
	})
}
