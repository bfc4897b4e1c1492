package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sallyport/pkg/exchange"
)

// FuzzRequest checks that what we accept net/http reads the same way, both as
// it came and as we forward it: framing that two parsers read differently is
// how requests are smuggled.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		get, head, get10, ws, last,
		"POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello" + get,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + get,
		"GET http://b/x HTTP/1.1\r\nHost: a\r\nConnection: X, close\r\nX: y\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n", "\r\nGET / HTTP/1.1\r\nHost: a\r\n x: y\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03\x01",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, raw []byte, step uint8) {
		req, wire, err := forward(string(raw), int(step))
		if err != nil {
			return
		}
		std, body, err := stdRequest(bytes.TrimPrefix(raw, []byte("\r\n")))
		if err != nil {
			// net/http checks targets as URIs; the pieces that frame must agree.
			if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI") {
				return
			}
			t.Fatalf("net/http refuses %q: %v", raw, err)
		}
		if std.Method != req.Method {
			t.Errorf("method %q, net/http %q", req.Method, std.Method)
		}
		again, forwarded, err := stdRequest([]byte(wire))
		if err != nil {
			t.Fatalf("net/http refuses what we forward, %q: %v", wire, err)
		}
		if diff := cmp.Diff(body, forwarded); diff != "" {
			t.Errorf("the body changed: %s", diff)
		}
		if req.Authority != "" && again.Host != req.Authority {
			t.Errorf("Host %q, net/http reads %q", req.Authority, again.Host)
		}
		if again.RequestURI != target(req) {
			t.Errorf("target %q, net/http reads %q", target(req), again.RequestURI)
		}
		for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "HTTP2-Settings"} {
			if again.Header.Get(name) != "" {
				t.Errorf("%s was forwarded in %q", name, wire)
			}
		}
	})
}

func target(req *exchange.Request) string {
	if req.HasQuery {
		return req.Path + "?" + req.Query
	}
	return req.Path
}

// stdRequest reads with net/http exactly one request and its body.
func stdRequest(raw []byte) (*http.Request, []byte, error) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(req.Body)
	return req, body, err
}

// FuzzResponse checks that what a client gets is one response that net/http
// reads to the same end, with nothing behind it.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.0 200\r\n\r\nhello", "HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n",
		"HTTP/1.1 304 Not\r\nContent-Length: 7\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: c\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: Set-Cookie, close\r\nAlt-Svc: h3\r\n\r\nx",
		"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
	} {
		for kind := range uint8(4) {
			f.Add([]byte(seed), kind, uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, kind, step uint8) {
		request := [...]string{get, head, keep1, ws}[kind%4]
		wire, keep, _, err := relay(request, string(raw), int(step))
		if err != nil {
			var source *exchange.SourceError
			if keep && errors.As(err, &source) {
				t.Error("the client's connection goes on behind a broken response")
			}
			return
		}
		method := strings.Fields(request)[0]
		r := bufio.NewReader(strings.NewReader(wire))
		for {
			resp, err := http.ReadResponse(r, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("net/http refuses what the client gets, %q: %v", wire, err)
			}
			if resp.Header.Get("Alt-Svc") != "" {
				t.Errorf("Alt-Svc in %q", wire)
			}
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Fatalf("body of %q: %v", wire, err)
			}
			if resp.StatusCode >= 200 || resp.StatusCode == 101 {
				break
			}
		}
		if rest, _ := io.ReadAll(r); len(rest) > 0 {
			t.Errorf("%q behind the response %q", rest, wire)
		}
	})
}

// FuzzChunked checks that the pieces in which a body comes do not matter and
// that what we accept net/http decodes to the same bytes.
func FuzzChunked(f *testing.F) {
	for _, seed := range []string{
		"5\r\nhello\r\n0\r\n\r\n", "5 ;a=b\r\nhello\r\n000\r\nA: b\r\n\r\nrest", "5\nhello\n0\n\n",
		"ffffffffffffffff\r\n", "5\r\nhello!\r\n", "0\r\nA\r\n\r\n", "-1\r\n", "0x5\r\n", "5;\r\r\nhello",
	} {
		f.Add([]byte(seed), uint8(1))
	}
	f.Fuzz(func(t *testing.T, raw []byte, step uint8) {
		var whole chunkDecoder
		p := bytes.Clone(raw)
		n, used, err := whole.decode(p)
		content := p[:n]

		var pieces chunkDecoder
		var got []byte
		size := int(step) + 1
		var perr error
		for rest := bytes.Clone(raw); len(rest) > 0 && perr == nil && pieces.state != chunkDone; {
			k := min(size, len(rest))
			n, used, e := pieces.decode(rest[:k])
			got, perr = append(got, rest[:n]...), e
			rest = rest[used:]
		}
		if !bytes.Equal(got, content) || (err == nil) != (perr == nil) || whole.state != pieces.state {
			t.Fatalf("whole %q %v, in pieces %q %v", content, err, got, perr)
		}
		if err != nil || whole.state != chunkDone {
			return
		}
		std, serr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw[:used])))
		if serr != nil || !bytes.Equal(std, content) {
			t.Errorf("we read %q, net/http %q, %v", content, std, serr)
		}
	})
}
