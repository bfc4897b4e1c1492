package http1

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"sallyport/pkg/exchange"
)

// relay sends one request through a server and a client connection whose
// upstream answers with raw, and gives what the client gets.
func relay(request, raw string, step int) (wire string, keep, reusable bool, err error) {
	var codec Codec
	down := &memConn{in: []byte(request), stay: true}
	up := &memConn{in: []byte(raw), step: step}
	s, c := codec.Server(down), codec.Client(up)
	var x exchange.Exchange
	if err := s.ReadRequest(&x.Request); err != nil {
		return "", false, false, err
	}
	err = c.RoundTrip(&x.Request, &x.Response, exchange.Options{Informational: func(r *exchange.Response) error {
		return s.WriteInformational(&x.Request, r)
	}})
	if err == nil {
		_, err = s.WriteResponse(&x.Request, &x.Response)
	}
	reusable, ferr := c.Finish(&x.Request)
	if err == nil {
		err = ferr
	}
	return down.out.String(), s.Finish(), reusable, err
}

const (
	get   = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	head  = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
	get10 = "GET / HTTP/1.0\r\nHost: a\r\n\r\n"
	keep1 = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
	last  = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	ws    = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)

func TestResponseForwarded(t *testing.T) {
	for _, tt := range []struct {
		section, name, request, raw, want string
		keep, reusable                    bool
	}{
		{"9112 6.3", "Content-Length", get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-a: b\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-a: b\r\n\r\nhello", true, true},
		{"9112 4", "no phrase", get, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", true, true},
		{"9112 4", "odd status", get, "HTTP/1.1 999 Why \xe4?\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 999 Why \xe4?\r\nContent-Length: 0\r\n\r\n", true, true},
		{"9112 7.1", "chunked with trailers", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n", true, true},
		{"9112 6.3", "until close becomes chunked", get, "HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true, false},
		{"9112 6.3", "until close of HTTP/1.0", get, "HTTP/1.0 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true, false},
		{"9110 15.5.22", "426 tells the protocols that would do", ws, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket, h2c, TLS/1.3\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true, true},
		{"9110 15.5.22", "426 to a connection that ends", last, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", false, true},
		{"9110 15.5.22", "426 that names nothing of its own", get, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", true, true},
		{"9112 6.3", "until close to HTTP/1.0", get10, "HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", false, false},
		{"9112 6.1", "chunked to HTTP/1.0", keep1, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", false, true},
		{"9112 9.3", "HTTP/1.0 kept alive", keep1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", true, true},
		{"9112 9.3", "upstream of HTTP/1.0", get, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true, false},
		{"9112 9.3", "upstream of HTTP/1.0 that stays", get, "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true, true},
		{"9112 9.6", "upstream closes, client stays", get, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true, false},
		{"9112 9.6", "client closes, upstream stays", last, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", false, true},
		{"9112 6.3", "HEAD", head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, true},
		{"9112 6.3", "HEAD, chunked", head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, true},
		{"9112 6.3", "HEAD without framing", head, "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", true, true},
		{"9112 6.3", "HEAD with a body is not reused", head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, false},
		{"9112 6.3", "204", get, "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", true, true},
		{"9112 6.3", "204 with a length and bytes", get, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 204 No Content\r\n\r\n", true, false},
		{"9112 6.3", "304 keeps its length", get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", true, true},
		{"9112 6.3", "304, chunked", get, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n", true, true},
		{"9110 7.6.1", "hop-by-hop fields and Alt-Svc", get, "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nAlt-Svc: h3=\":443\"\r\nUpgrade: h2,h2c\r\nProxy-Authenticate: Basic\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n", true, true},
		{"9112 7.1.2", "Alt-Svc in trailers", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAlt-Svc: h3\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", true, true},
		{"9110 15.2", "interim responses", get, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, true},
		{"9110 15.2", "interim responses to HTTP/1.0", keep1, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true, true},
		{"9110 7.8", "101", ws, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
			"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", false, false},
		{"9110 7.8", "upgrade that the upstream declines", ws, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, true},
		{"9112 9.3", "surplus bytes spoil the connection", get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true, false},
	} {
		for _, step := range []int{0, 1, 9} {
			t.Run(fmt.Sprintf("%s/%s/%d", tt.section, tt.name, step), func(t *testing.T) {
				got, keep, reusable, err := relay(tt.request, tt.raw, step)
				if err != nil {
					t.Fatal(err)
				}
				want := tt.want
				if strings.Contains(want, "\r\n5\r\nhello") && step != 0 {
					got, want = dechunk(t, got), dechunk(t, want)
				}
				if got != want {
					t.Errorf("got  %q\nwant %q", got, want)
				}
				if keep != tt.keep {
					t.Errorf("client connection kept: %v", keep)
				}
				// Bytes that the upstream has not sent yet cannot count.
				if step == 0 && reusable != tt.reusable {
					t.Errorf("upstream connection reusable: %v", reusable)
				}
			})
		}
	}
}

func TestResponseRefused(t *testing.T) {
	const start = "HTTP/1.1 200 OK\r\n"
	for _, tt := range []struct{ section, name, request, raw, want string }{
		{"9112 4", "not HTTP", get, "ICY 200 OK\r\n\r\n", "status line"},
		{"9112 4", "HTTP/2", get, "HTTP/2.0 200 OK\r\n\r\n", "status line"},
		{"9112 4", "HTTP/1.2", get, "HTTP/1.2 200 OK\r\n\r\n", "status line"},
		{"9112 4", "short status", get, "HTTP/1.1 20 OK\r\n\r\n", "status"},
		{"9112 4", "status below 100", get, "HTTP/1.1 099 OK\r\n\r\n", "status"},
		{"9112 4", "signed status", get, "HTTP/1.1 +20 OK\r\n\r\n", "status"},
		{"9112 4", "long status", get, "HTTP/1.1 2000 OK\r\n\r\n", "three digits"},
		{"9112 4", "control in the phrase", get, "HTTP/1.1 200 O\x00K\r\n\r\n", "reason phrase"},
		{"9112 2.2", "lone CR in the phrase (splitting)", get, "HTTP/1.1 200 O\rSet-Cookie: a\r\n\r\n", "reason phrase"},
		{"9112 2.2", "bare LF", get, "HTTP/1.1 200 OK\nA: b\r\n\r\n", "bare LF"},
		{"9112 2.2", "empty line first", get, "\r\nHTTP/1.1 200 OK\r\n\r\n", "empty line"},
		{"9112 5.2", "obs-fold", get, start + "A: b\r\n\tc\r\n\r\n", "obs-fold"},
		{"9112 5.1", "space before the colon", get, start + "A : b\r\n\r\n", "before the colon"},
		{"9110 5.5", "lone CR in a value (splitting)", get, start + "A: b\rSet-Cookie: c\r\n\r\n", "control character"},
		{"9112 6.3", "both framings", get, start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "together with"},
		{"9112 6.3", "two lengths", get, start + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "repeated Content-Length"},
		{"9112 6.3", "length list", get, start + "Content-Length: 5, 5\r\n\r\nhello", "plain decimal"},
		{"9112 6.1", "other coding", get, start + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer coding"},
		{"9112 6.1", "chunked in HTTP/1.0", get, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "in HTTP/1.0"},
		{"9110 15.2", "flood of interim responses", get, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxInformational+1), "interim"},
		{"9110 15.2.2", "101 that nobody asked for", get, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "did not offer"},
		{"9110 15.2.2", "101 to another protocol", ws, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "not offered"},
		{"9110 15.2.2", "101 without Upgrade", ws, "HTTP/1.1 101 Switching Protocols\r\n\r\n", "without Upgrade"},
		{"9110 5.4", "header section over 64 KiB", get, start + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 66) + "\r\n", "64 KiB"},
		{"9110 5.4", "too many fields", get, start + strings.Repeat("A: b\r\n", maxFields+1) + "\r\n", "too many"},
	} {
		t.Run(tt.section+"/"+tt.name, func(t *testing.T) {
			got, _, reusable, err := relay(tt.request, tt.raw, 0)
			var bad *exchange.MalformedError
			var rt *exchange.RoundTripError
			if !errors.As(err, &bad) || !strings.Contains(bad.Text, tt.want) || !errors.As(err, &rt) || rt.Replayable {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if reusable || strings.Contains(got, "200 OK") {
				t.Errorf("reusable %v, client got %q", reusable, got)
			}
		})
	}
}

func TestResponseCut(t *testing.T) {
	for _, tt := range []struct{ name, request, raw string }{
		{"length", get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"},
		{"chunk", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"},
		{"between chunks", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"},
		{"trailers", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\nA: b\r\n"},
		{"chunk to HTTP/1.0", get10, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"},
		{"broken chunk", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n"},
		{"framing in trailers", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\nContent-Length: 3\r\n\r\n"},
		{"cookie in trailers", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\nSet-Cookie: 3\r\n\r\n"},
	} {
		for _, step := range []int{0, 1} {
			t.Run(fmt.Sprint(tt.name, step), func(t *testing.T) {
				got, keep, reusable, err := relay(tt.request, tt.raw, step)
				var source *exchange.SourceError
				if !errors.As(err, &source) {
					t.Fatalf("error %v", err)
				}
				if keep || reusable {
					t.Errorf("kept %v, reusable %v", keep, reusable)
				}
				if step == 0 && !strings.Contains(got, "hel") || strings.HasSuffix(got, "0\r\n\r\n") || strings.Contains(got, "hello") {
					t.Errorf("client got %q", got)
				}
			})
		}
	}
}

func TestNoResponse(t *testing.T) {
	for _, tt := range []struct {
		name, request, raw string
		replayable         bool
	}{
		{"closed", get, "", true},
		{"closed, short body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "", true},
		{"closed, short chunked body", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "", true},
		{"closed within the head", get, "HTTP/1.1 200 OK\r\n", false},
		{"closed behind an interim response", get, "HTTP/1.1 103 Early Hints\r\n\r\n", false},
	} {
		_, _, _, err := relay(tt.request, tt.raw, 0)
		var rt *exchange.RoundTripError
		if !errors.As(err, &rt) || !errors.Is(err, io.ErrUnexpectedEOF) || rt.Replayable != tt.replayable {
			t.Errorf("%s: %v, %+v", tt.name, err, rt)
		}
	}
}

func TestWriterRefusesWhatStagesMustNotAdd(t *testing.T) {
	for _, f := range []exchange.Field{
		{Name: "A", Value: "b\r\nC: d"}, {Name: "A\r\nB", Value: "c"}, {Name: "", Value: "c"},
		{Name: "A b", Value: "c"}, {Name: "A", Value: "b\x00"},
	} {
		var codec Codec
		conn := &memConn{}
		resp := exchange.Response{Status: 200, Length: exchange.NoBody}
		resp.Header.Add(f.Name, f.Value)
		if _, err := codec.Server(conn).WriteResponse(&exchange.Request{Method: "GET", Version: exchange.HTTP11}, &resp); !errors.Is(err, exchange.ErrInvalidField) || conn.writes != 0 {
			t.Errorf("%+v: %v, wrote %q", f, err, conn.out.String())
		}
		req := exchange.Request{Method: "GET", Path: "/", Authority: "a"}
		req.Header.Add(f.Name, f.Value)
		if err := codec.Client(conn).RoundTrip(&req, &resp, exchange.Options{}); !errors.Is(err, exchange.ErrInvalidField) || conn.writes != 0 {
			t.Errorf("%+v: %v, wrote %q", f, err, conn.out.String())
		}
	}
	// Framing is the writer's own, whatever a stage adds.
	var codec Codec
	conn := &memConn{}
	resp := exchange.Response{Status: 200, Length: 2, Body: exchange.NewBytes([]byte("hi"))}
	resp.Header.Add("Transfer-Encoding", "chunked")
	resp.Header.Add("Content-Length", "9")
	resp.Header.Add("Connection", "x")
	if _, err := codec.Server(conn).WriteResponse(&exchange.Request{Method: "GET", Version: exchange.HTTP11}, &resp); err != nil {
		t.Fatal(err)
	}
	if got := conn.out.String(); got != "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi" {
		t.Errorf("got %q", got)
	}
}

func TestBodyLongerThanDeclared(t *testing.T) {
	for _, length := range []int64{1, 3} {
		var codec Codec
		conn := &memConn{}
		resp := exchange.Response{Status: 200, Length: length, Body: exchange.NewBytes([]byte("hi"))}
		s := codec.Server(conn)
		_, err := s.WriteResponse(&exchange.Request{Method: "GET", Version: exchange.HTTP11}, &resp)
		if !errors.Is(err, exchange.ErrBodyLength) || s.Finish() {
			t.Errorf("declared %d: %v", length, err)
		}
	}
}

func TestOneWriteForHeadAndBody(t *testing.T) {
	for _, raw := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("a", 1024),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + strings.Repeat("a", 1024) + "\r\n0\r\n\r\n",
	} {
		var codec Codec
		down := &memConn{in: []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")}
		up := &memConn{in: []byte(raw)}
		s, c := codec.Server(down), codec.Client(up)
		var x exchange.Exchange
		if err := s.ReadRequest(&x.Request); err != nil {
			t.Fatal(err)
		}
		if err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil {
			t.Fatal(err)
		}
		if down.reads != 1 || down.writes != 1 || up.reads != 1 || up.writes != 1 || c.sending != nil {
			t.Errorf("reads %d and %d, writes %d and %d", down.reads, up.reads, down.writes, up.writes)
		}
	}
}
