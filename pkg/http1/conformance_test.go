package http1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/exchange"
)

// TestBounds: what is exactly at a bound passes, one more byte or field is
// refused (RFC 9110 section 5.4).
func TestBounds(t *testing.T) {
	fill := func(template string, size int) string {
		return strings.Replace(template, "@", strings.Repeat("a", size-len(template)+1), 1)
	}
	fields := func(n int) string { return strings.Repeat("A: b\r\n", n) }
	const (
		long  = "GET / HTTP/1.1\r\nHost: a\r\nX: @\r\n\r\n"
		path  = "GET /@ HTTP/1.1\r\nHost: a\r\n\r\n"
		posts = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	)
	for _, tt := range []struct {
		name, raw string
		ok        bool
	}{
		{"head of 64 KiB", fill(long, maxHead), true},
		{"head of 64 KiB and one", fill(long, maxHead+1), false},
		{"first line of 64 KiB with its head", fill(path, maxHead), true},
		{"first line of 64 KiB and one", fill(path, maxHead+1), false},
		{"256 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + fields(maxFields-1) + "\r\n", true},
		{"257 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + fields(maxFields) + "\r\n", false},
		{"32 options", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a" + strings.Repeat(",a", maxNominations-1) + "\r\n\r\n", true},
		{"33 options", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a" + strings.Repeat(",a", maxNominations) + "\r\n\r\n", false},
		{"method of 32", strings.Repeat("M", 32) + " / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"method of 33", strings.Repeat("M", 33) + " / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"chunk line of 4 KiB", posts + fill("1;@\r\n", maxChunkLine) + "a\r\n0\r\n\r\n", true},
		{"chunk line of 4 KiB and one", posts + fill("1;@\r\n", maxChunkLine+1) + "a\r\n0\r\n\r\n", false},
		{"15 digits", posts + "000000000000001\r\na\r\n0\r\n\r\n", true},
		{"16 digits", posts + "0000000000000001\r\na\r\n0\r\n\r\n", false},
		{"trailers of 16 KiB", posts + "0\r\n" + fill("A: @\r\n\r\n", maxTrailer), true},
		{"trailers of 16 KiB and one", posts + "0\r\n" + fill("A: @\r\n\r\n", maxTrailer+1), false},
		{"64 trailers", posts + "0\r\n" + fields(maxTrailerFields) + "\r\n", true},
		{"65 trailers", posts + "0\r\n" + fields(maxTrailerFields+1) + "\r\n", false},
	} {
		for _, step := range []int{0, 1021} {
			_, wire, err := forward(tt.raw, step)
			var bad *exchange.MalformedError
			switch {
			case tt.ok && err != nil:
				t.Errorf("%s: %v", tt.name, err)
			case tt.ok && !strings.HasSuffix(wire, "\r\n\r\n"):
				t.Errorf("%s: cut", tt.name)
			case !tt.ok && (!errors.As(err, &bad) || bad.Status != 400):
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
	const answer = "HTTP/1.1 200 OK\r\nX: @\r\nContent-Length: 0\r\n\r\n"
	for size, ok := range map[int]bool{maxHead: true, maxHead + 1: false} {
		if _, _, _, err := relay(get, fill(answer, size), 0); (err == nil) != ok {
			t.Errorf("response head of %d: %v", size, err)
		}
	}
	for n, ok := range map[int]bool{maxInformational: true, maxInformational + 1: false} {
		if _, _, _, err := relay(get, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", n)+"HTTP/1.1 204 No\r\n\r\n", 0); (err == nil) != ok {
			t.Errorf("%d interim responses: %v", n, err)
		}
	}
}

// TestExpectContinueCourses: RFC 9110 section 10.1.1 in all its courses.
func TestExpectContinueCourses(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
	const goOn, done = "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	const no, noMore = "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	type step struct{ who, sends, sees string }
	for _, tt := range []struct {
		name  string
		steps []step
		keeps bool
	}{
		{"asked, told, sent", []step{{"client", head, head}, {"origin", goOn, goOn}, {"client", "hi", "hi"}, {"origin", done, done}}, true},
		{"asked and refused: the body is never sent", []step{{"client", head, head}, {"origin", no, noMore}}, false},
		{"not waited for", []step{{"client", head + "hi", head + "hi"}, {"origin", done, done}}, true},
		{"not answered: sent all the same", []step{{"client", head, head}, {"client", "hi", "hi"}, {"origin", done, done}}, true},
		{"not waited for, and told", []step{{"client", head + "hi", head + "hi"}, {"origin", goOn + done, goOn + done}}, true},
		{"told, then refused before the body is whole", []step{{"client", head, head}, {"origin", goOn, goOn}, {"client", "h", "h"}, {"origin", no, no}}, false},
		{"hints before", []step{{"client", head, head}, {"origin", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"}, {"origin", goOn, goOn}, {"client", "hi", "hi"}, {"origin", done, done}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, origin, ended := start(t)
			for _, s := range tt.steps {
				from, to := net.Conn(client), net.Conn(origin)
				if s.who == "origin" {
					from, to = origin, client
				}
				send(t, from, s.sends)
				expect(t, to, s.sees)
			}
			if tt.keeps {
				send(t, client, get)
				expect(t, origin, get)
				send(t, origin, done)
				expect(t, client, done)
				client.Close()
				if err := <-ended; err != io.EOF {
					t.Error(err)
				}
				return
			}
			if n, err := client.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes behind the answer", n)
			} else if err != io.EOF && !strings.Contains(err.Error(), "reset") {
				t.Error(err)
			}
			client.Close()
			<-ended
		})
	}
}

// TestHalfClose: a client that has said all it will say still gets its answers
// (RFC 9112 section 9.6 leaves it to both sides when to close).
func TestHalfClose(t *testing.T) {
	for _, tt := range []struct{ name, raw string }{
		{"one request", get},
		{"a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"},
		{"a chunked body", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"three in a row", get + get + get},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, origin, ended := start(t)
			send(t, client, tt.raw)
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(origin)
			for range strings.Count(tt.raw, "HTTP/1.1") {
				req, err := http.ReadRequest(r)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(req.Body); err != nil {
					t.Fatal(err)
				}
				const answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
				send(t, origin, answer)
				expect(t, client, answer)
			}
			if err := <-ended; err != io.EOF {
				t.Error(err)
			}
			if _, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Error(err)
			}
		})
	}
}

// TestEarlyAnswers: a final answer that comes while the request is still being
// sent reaches the client whole, and the upload stops, however the upstream
// behaves behind it.
func TestEarlyAnswers(t *testing.T) {
	big := strings.Repeat("answer", 1<<18) // 1.5 MB: more than both sockets hold
	for _, framing := range []string{"Content-Length: 1000000000", "Transfer-Encoding: chunked"} {
		for _, tt := range []struct {
			name, answer string
			then         func(*net.TCPConn)
		}{
			{"and stops reading", "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!", func(*net.TCPConn) {}},
			{"and closes", "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!", func(c *net.TCPConn) { c.CloseWrite() }},
			{"of some length", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big), func(*net.TCPConn) {}},
			{"in chunks", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), func(*net.TCPConn) {}},
			{"and goes on reading", "HTTP/1.1 401 No\r\nContent-Length: 3\r\n\r\nno!", func(c *net.TCPConn) { io.Copy(io.Discard, c) }},
		} {
			t.Run(framing[:1]+"/"+tt.name, func(t *testing.T) {
				client, origin, ended := start(t)
				send(t, client, "POST / HTTP/1.1\r\nHost: a\r\n"+framing+"\r\n\r\n")
				stopped := make(chan int64, 1)
				go func() {
					piece := []byte("10000\r\n" + strings.Repeat("x", 64<<10) + "\r\n")
					var total int64
					for {
						n, err := client.Write(piece)
						total += int64(n)
						if err != nil {
							stopped <- total
							return
						}
					}
				}()
				if _, err := http.ReadRequest(bufio.NewReaderSize(origin, 16)); err != nil {
					t.Fatal(err)
				}
				go func() {
					io.WriteString(origin, tt.answer)
					tt.then(origin)
				}()
				resp, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || len(body) != 3 && len(body) != len(big) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
				client.Close()
				if n := <-stopped; n >= 1000000000 {
					t.Errorf("the client sent all of its %d bytes", n)
				}
				<-ended
			})
		}
	}
}

// TestAnswerBeforeReset: an upstream that answers and closes with input unread
// resets the connection; the answer that it sent before is not lost.
func TestAnswerBeforeReset(t *testing.T) {
	client, origin, ended := start(t)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 4096))
	expect(t, origin, "POST / HTTP/1.1\r\n")
	const answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
	send(t, origin, answer)
	origin.Close()
	expect(t, client, answer)
	client.Close()
	<-ended
}

// TestLingerEnds: a client that goes on sending behind its answer is not read
// for longer than somebody allows.
func TestLingerEnds(t *testing.T) {
	client, down := tcpPair(t)
	s := new(Codec).Server(down)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
	var x exchange.Exchange
	if err := s.ReadRequest(&x.Request); err != nil {
		t.Fatal(err)
	}
	refusal().Answer(&x.Request, &x.Response)
	if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil || s.Finish() {
		t.Fatal(err)
	}
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		for piece := make([]byte, 64<<10); ; {
			if _, err := client.Write(piece); err != nil {
				return
			}
		}
	}()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.Close()
	}()
	select {
	case <-closed:
		t.Error("closed at once: the answer may be lost")
	case <-time.After(300 * time.Millisecond):
	}
	down.SetDeadline(time.Unix(1, 0)) // as a proxy does that stops
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("goes on reading")
	}
	client.Close()
	<-flooding
}

// TestHanded tells when what the client does no longer changes the request.
func TestHanded(t *testing.T) {
	var codec Codec
	up, origin := tcpPair(t)
	client, down := tcpPair(t)
	s, c := codec.Server(down), codec.Client(up)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh")
	var x exchange.Exchange
	if err := s.ReadRequest(&x.Request); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- c.RoundTrip(&x.Request, &x.Response, exchange.Options{}) }()
	expect(t, origin, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh")
	if c.Handed() {
		t.Error("half a body is a whole request")
	}
	send(t, client, "i")
	expect(t, origin, "i")
	for end := time.Now().Add(30 * time.Second); !c.Handed(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the request is not taken for sent")
		}
	}
	send(t, origin, "HTTP/1.1 204 No\r\n\r\n")
	if err := <-answered; err != nil {
		t.Error(err)
	}
	c.Finish(&x.Request)
}
