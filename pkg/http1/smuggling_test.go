package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sallyport/pkg/exchange"
)

// hidden is what an attacker wants an upstream to take for a request of its
// own while nobody judged it.
const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"

// passed sends a stream of requests through and gives the paths that were read,
// what the upstream got and the last error.
func passed(t *testing.T, stream string) (judged []string, wire []byte, last error) {
	t.Helper()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	codec := new(Codec)
	down := &memConn{in: []byte(stream)}
	up := &memConn{in: []byte(strings.Repeat(answer, 10)), step: len(answer)}
	s, c := codec.Server(down), codec.Client(up)
	var x exchange.Exchange
	for {
		if last = s.Wait(); last != nil {
			return judged, up.out.Bytes(), last
		}
		if last = s.ReadRequest(&x.Request); last != nil {
			return judged, up.out.Bytes(), last
		}
		judged = append(judged, x.Request.Path)
		err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{})
		if err == nil {
			_, err = s.WriteResponse(&x.Request, &x.Response)
		}
		reusable, ferr := c.Finish(&x.Request)
		if err == nil {
			err = ferr
		}
		if last = err; last != nil || !s.Finish() || !reusable {
			return judged, up.out.Bytes(), last
		}
	}
}

// received gives the paths that net/http reads from what an upstream got, and
// whether the last request ended.
func received(t *testing.T, wire []byte) (paths []string, whole bool) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(wire))
	for {
		if _, err := r.Peek(1); err != nil {
			return paths, true
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("net/http refuses what we forward, %q: %v", wire, err)
		}
		paths = append(paths, req.URL.Path)
		if _, err := io.ReadAll(req.Body); err != nil {
			return paths, false
		}
	}
}

// TestSmuggling: requests that two parsers could cut apart differently. Each is
// refused, or what the upstream gets is cut apart in one way, and every request
// in it was judged.
func TestSmuggling(t *testing.T) {
	const post = "POST /first HTTP/1.1\r\nHost: a\r\n"
	const refused, one, two = 0, 1, 2 // how many requests are judged
	type attack struct {
		name, stream string
		judged       int
	}
	attacks := []attack{
		{"CL.TE", post + "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"TE.CL", post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n23\r\n" + hidden + "\r\n0\r\n\r\n", refused},
		{"CL.CL", post + "Content-Length: 0\r\nContent-Length: 33\r\n\r\n" + hidden, refused},
		{"CL.CL equal", post + "Content-Length: 33\r\nContent-Length: 33\r\n\r\n" + hidden, refused},
		{"CL list", post + "Content-Length: 33, 0\r\n\r\n" + hidden, refused},
		{"CL.0", post + "Content-Length: 33\r\n\r\n" + hidden, one},
		{"0.CL", "GET /first HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + hidden, one},
		{"no framing: the rest is the next request, and judged", post + "\r\n" + hidden, two},
		{"leading zeros", post + "Content-Length: 0033\r\n\r\n" + hidden, one},
		{"TE.TE second is identity", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"TE.TE first is identity", post + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"TE in another case", post + "tRANSFER-eNCODING: CHUNKED\r\n\r\n0\r\n\r\n" + hidden, two},
		{"TE behind a tab", post + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + hidden, two},
		{"TE with spaces behind", post + "Transfer-Encoding: chunked \t \r\n\r\n0\r\n\r\n" + hidden, two},
		{"name with an underscore frames nothing", post + "Transfer_Encoding: chunked\r\nContent_Length: 5\r\n\r\n" + hidden, two},
		{"lone CR hides a field", post + "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"bare LF hides a field", post + "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"bare LF ends the head", post + "Content-Length: 33\r\n\n" + hidden, refused},
		{"NUL in a name", post + "Transfer-Encoding\x00: chunked\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"NUL behind a value", post + "Content-Length: 33\x00\r\n\r\n" + hidden, refused},
		{"field line before the head", " \r\n" + post + "\r\n" + hidden, refused},
		{"request line with a bare CR", "POST /first HTTP/1.1\rX: y\r\nHost: a\r\n\r\n" + hidden, refused},
		{"request in a path", "GET /first?GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n", refused},
		{"HTTP/0.9 before", "GET /first\r\n" + hidden, refused},
		{"version of two digits", "GET /first HTTP/1.10\r\nHost: a\r\n\r\n" + hidden, refused},
		{"1.0 with chunks", "POST /first HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, refused},
		{"CONNECT with content", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + hidden, refused},
		{"upgrade with content", post + "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 33\r\n\r\n" + hidden, one},
		{"Connection strips framing", post + "Connection: Content-Length, Transfer-Encoding, close\r\nContent-Length: 33\r\n\r\n" + hidden, one},
	}
	for _, value := range []string{
		"xchunked", "chunkedx", "chunked,", ",chunked", "chunked, identity", "identity, chunked", "gzip, chunked", "chunked, gzip",
		"x chunked", "chunked x", "chunked;", "chunked;q=1", "'chunked'", "\"chunked\"", "chunked\x0b", "\x0bchunked", "\x0cchunked",
		"chunk\x00ed", "chunked\x00", "\xa0chunked", "c\u212aunked", "[chunked]", "chunked\r\n ", "\r\n chunked", "\r\n\tchunked", "1chunked", "",
	} {
		attacks = append(attacks, attack{fmt.Sprintf("TE %q", value), post + "Transfer-Encoding: " + value + "\r\n\r\n0\r\n\r\n" + hidden, refused})
		attacks = append(attacks, attack{fmt.Sprintf("CL and TE %q", value), post + "Content-Length: 5\r\nTransfer-Encoding: " + value + "\r\n\r\n0\r\n\r\n" + hidden, refused})
	}
	for _, name := range []string{"Transfer-Encoding ", " Transfer-Encoding", "Transfer-Encoding\t", "Transfer Encoding", "\x0bTransfer-Encoding", "Transfer-Encoding\r\n", "Content-Length "} {
		attacks = append(attacks, attack{fmt.Sprintf("name %q", name), post + name + ": chunked\r\n\r\n0\r\n\r\n" + hidden, refused})
	}
	for _, value := range []string{"+33", "-33", "0x21", "33 ", "33;", "3 3", "33\t0", "33.0", "3e1", "\u0663\u0663", "33abc", "18446744073709551650", "99999999999999999999", "", " "} {
		judged := refused
		if value == "33 " {
			judged = one
		}
		attacks = append(attacks, attack{fmt.Sprintf("CL %q", value), post + "Content-Length: " + value + "\r\n\r\n" + hidden, judged})
	}
	for _, tt := range attacks {
		t.Run(tt.name, func(t *testing.T) {
			judged, wire, last := passed(t, tt.stream)
			paths, whole := received(t, wire)
			if !whole {
				t.Errorf("the upstream waits for more behind %q", wire)
			}
			if fmt.Sprint(paths) != fmt.Sprint(judged) {
				t.Errorf("judged %q, the upstream reads %q", judged, paths)
			}
			if len(judged) != tt.judged {
				t.Errorf("judged %q (%v), want %d", judged, last, tt.judged)
			}
			var bad *exchange.MalformedError
			if tt.judged == refused && !errors.As(last, &bad) {
				t.Errorf("error %v", last)
			}
		})
	}
}

// TestChunkTricks: chunks that two parsers could read differently. The body is
// refused or cut: the upstream never sees a clean end, nor a byte more than the
// chunks before.
func TestChunkTricks(t *testing.T) {
	const start = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct{ name, body string }{
		{"0x", "0x5\r\nhello\r\n0\r\n\r\n"},
		{"plus", "+5\r\nhello\r\n0\r\n\r\n"},
		{"minus", "-5\r\nhello\r\n0\r\n\r\n"},
		{"space before", " 5\r\nhello\r\n0\r\n\r\n"},
		{"space behind", "5 \r\nhello\r\n0\r\n\r\n"},
		{"tab behind", "5\t\r\nhello\r\n0\r\n\r\n"},
		{"space before an extension", "5 ;a\r\nhello\r\n0\r\n\r\n"},
		{"underscore", "0_5\r\nhello\r\n0\r\n\r\n"},
		{"empty size", "\r\nhello\r\n0\r\n\r\n"},
		{"only an extension", ";a\r\nhello\r\n0\r\n\r\n"},
		{"sixteen digits", "0000000000000005\r\nhello\r\n0\r\n\r\n"},
		{"size over 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"},
		{"size of 64 bits", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
		{"bare LF behind the size", "5\nhello\r\n0\r\n\r\n"},
		{"bare CR behind the size", "5\rhello\r\n0\r\n\r\n"},
		{"two CR behind the size", "5\r\r\nhello\r\n0\r\n\r\n"},
		{"NUL behind the size", "5\x00\r\nhello\r\n0\r\n\r\n"},
		{"bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"},
		{"bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"},
		{"CRLF in a quoted extension", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"},
		{"NUL in an extension", "5;a=\x00\r\nhello\r\n0\r\n\r\n"},
		{"extension over 4 KiB", "5;" + strings.Repeat("a", maxChunkLine) + "\r\nhello\r\n0\r\n\r\n"},
		{"extensions over 64 KiB together", strings.Repeat("1;"+strings.Repeat("a", 4000)+"\r\nh\r\n", 17) + "0\r\n\r\n"},
		{"data longer than its size", "5\r\nhello!\r\n0\r\n\r\n"},
		{"data shorter than its size", "5\r\nhell\r\n0\r\n\r\n"},
		{"bare LF behind data", "5\r\nhello\n0\r\n\r\n"},
		{"bare CR behind data", "5\r\nhello\r0\r\n\r\n"},
		{"two CRLF behind data", "5\r\nhello\r\n\r\n0\r\n\r\n"},
		{"bare LF behind the last chunk", "5\r\nhello\r\n0\n\r\n"},
		{"bare LF ends the trailers", "5\r\nhello\r\n0\r\n\n"},
		{"trailer with a bare LF", "5\r\nhello\r\n0\r\nA: b\n\r\n"},
		{"trailer with a space before the colon", "5\r\nhello\r\n0\r\nA : b\r\n\r\n"},
		{"trailer without a colon", "5\r\nhello\r\n0\r\nA\r\n\r\n"},
		{"folded trailer", "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"},
		{"Content-Length in a trailer", "5\r\nhello\r\n0\r\nContent-Length: 33\r\n\r\n"},
		{"Transfer-Encoding in a trailer", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"Host in a trailer", "5\r\nhello\r\n0\r\nHost: b\r\n\r\n"},
		{"Authorization in a trailer", "5\r\nhello\r\n0\r\nAuthorization: Basic eA==\r\n\r\n"},
		{"trailers over 16 KiB", "5\r\nhello\r\n0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 17) + "\r\n"},
		{"too many trailers", "5\r\nhello\r\n0\r\n" + strings.Repeat("A: b\r\n", maxTrailerFields+1) + "\r\n"},
	} {
		for _, step := range []int{0, 1} {
			_, wire, err := forward(start+tt.body+hidden, step)
			var bad *exchange.MalformedError
			if !errors.As(err, &bad) {
				t.Errorf("%s: error %v, the upstream got %q", tt.name, err, wire)
			}
			if strings.HasSuffix(wire, "0\r\n\r\n") || strings.Contains(wire, "hidden") {
				t.Errorf("%s: the upstream got %q", tt.name, wire)
			}
		}
	}
}

// TestResponseSmuggling: answers by which an upstream could have bytes taken
// for the answer to another request. Whatever it is, the client reads one
// response and nothing behind it, and the connection that sent it carries no
// further request.
func TestResponseSmuggling(t *testing.T) {
	const extra = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden"
	for _, tt := range []struct{ name, request, raw string }{
		{"behind a length", get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + extra},
		{"behind chunks", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + extra},
		{"behind 204", get, "HTTP/1.1 204 No Content\r\n\r\n" + extra},
		{"204 with a length", get, "HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n" + extra},
		{"204 with chunks", get, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"behind 304", get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" + extra},
		{"behind HEAD", head, "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" + extra},
		{"behind HEAD with chunks", head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"empty, with bytes", get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + extra},
		{"two lengths", get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + extra},
		{"length and chunks", get, "HTTP/1.1 200 OK\r\nContent-Length: 49\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + extra},
		{"chunks and length", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + extra},
		{"chunked of another spelling", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + extra},
		{"field split by a lone CR", get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\r\r\n\r\n" + extra},
		{"field split by a bare LF", get, "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 44\r\n\r\n" + extra},
		{"NUL in a field", get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\x00c\r\n\r\n" + extra},
		{"interim response with content", get, "HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\nhidden"},
		{"101 that nobody asked for", get, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + extra},
		{"chunk behind the last one", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n6\r\nhidden\r\n0\r\n\r\n"},
		{"garbage before", get, "hidden\r\n" + extra},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wire, keep, reusable, err := relay(tt.request, tt.raw, 0)
			if reusable {
				t.Error("the upstream connection would be used again")
			}
			if strings.Contains(wire, "hidden") {
				t.Errorf("the client got %q", wire)
			}
			if err != nil {
				return // refused: 502 where nothing was written, else cut
			}
			r := bufio.NewReader(strings.NewReader(wire))
			method, _, _ := strings.Cut(tt.request, " ")
			resp, err := http.ReadResponse(r, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%q: %v", wire, err)
			}
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Errorf("%q: %v", wire, err)
			}
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("%q behind the response", rest)
			}
			if !keep {
				t.Error("the client's connection ends for what its upstream did")
			}
		})
	}
}
