package http1

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"sallyport/pkg/exchange"
)

// forward reads one request as a server and gives what an upstream would get.
func forward(raw string, step int) (req *exchange.Request, wire string, err error) {
	var codec Codec
	conn := &memConn{in: []byte(raw), step: step}
	s := codec.Server(conn)
	req = new(exchange.Request)
	if err := s.Wait(); err != nil {
		return req, "", err
	}
	if err := s.ReadRequest(req); err != nil {
		return req, "", err
	}
	up := &memConn{}
	c := codec.Client(up)
	c.out = outgoing{body: req.Body, chunked: req.Length < 0, length: req.Length, trailer: &req.Trailer, done: req.Body == nil}
	if err := c.start(req, 0); err != nil {
		return req, up.out.String(), err
	}
	if c.sending != nil {
		<-c.sending
	}
	return req, up.out.String(), c.sendErr
}

func TestRequestForwarded(t *testing.T) {
	const host = "Host: a.example\r\n"
	for _, tt := range []struct{ section, name, raw, want string }{
		{"9112 3.2.1", "origin form", "GET /a?b=c HTTP/1.1\r\n" + host + "\r\n", "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9112 3.2.1", "empty query is kept", "GET /a? HTTP/1.1\r\n" + host + "\r\n", "GET /a? HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9112 3.2.1", "order and case are kept", "GET / HTTP/1.1\r\nX-b: 1\r\nhOsT: a.example\r\nAccept: */*\r\nx-B: 2\r\n\r\n",
			"GET / HTTP/1.1\r\nX-b: 1\r\nhOsT: a.example\r\nAccept: */*\r\nx-B: 2\r\n\r\n"},
		{"9112 3.2.2", "absolute form overrides Host", "GET http://b.example:8080/x HTTP/1.1\r\n" + host + "\r\n", "GET /x HTTP/1.1\r\nHost: b.example:8080\r\n\r\n"},
		{"9112 3.2.2", "absolute form without a path", "GET HTTP://b.example?q HTTP/1.1\r\n" + host + "\r\n", "GET /?q HTTP/1.1\r\nHost: b.example\r\n\r\n"},
		{"9112 3.2.4", "asterisk form", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9112 3.2.4", "asterisk form from absolute form", "OPTIONS http://b.example HTTP/1.1\r\n" + host + "\r\n", "OPTIONS * HTTP/1.1\r\nHost: b.example\r\n\r\n"},
		{"9112 2.2", "one empty line before", "\r\nGET / HTTP/1.1\r\n" + host + "\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9112 5", "whitespace around values", "GET / HTTP/1.1\r\nHost:a.example\r\nA: \t b \t\r\nC:\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nA: b\r\nC: \r\n\r\n"},
		{"9110 5.5", "obs-text in a value", "GET / HTTP/1.1\r\n" + host + "A: \xe4\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nA: \xe4\r\n\r\n"},
		{"9112 6.2", "Content-Length is written anew", "POST / HTTP/1.1\r\n" + host + "content-length: 0005\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: a.example\r\ncontent-length: 5\r\n\r\nhello"},
		{"9112 6.2", "empty body is kept", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"},
		{"9112 7.1", "chunks are written anew", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n002;a=b\r\nlo\r\n0\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"9112 7.1.2", "trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"9110 7.6.1", "hop-by-hop fields", "GET / HTTP/1.1\r\n" + host + "Connection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip\r\nA: b\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.example\r\nA: b\r\n\r\n"},
		{"9110 7.6.1", "Connection cannot remove what is essential", "POST / HTTP/1.1\r\n" + host + "Connection: Host, Content-Length, Authorization, Cookie, Content-Type\r\nAuthorization: x\r\nContent-Type: t/t\r\nContent-Length: 2\r\n\r\nhi",
			"POST / HTTP/1.1\r\nHost: a.example\r\nAuthorization: x\r\nContent-Type: t/t\r\nContent-Length: 2\r\n\r\nhi"},
		{"9110 10.1.4", "TE: trailers", "GET / HTTP/1.1\r\n" + host + "Connection: TE\r\nTE: gzip, trailers\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: TE\r\nTE: trailers\r\n\r\n"},
		{"9110 7.8", "Upgrade", "GET / HTTP/1.1\r\n" + host + "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"9110 7.8", "Upgrade that Connection does not list", "GET / HTTP/1.1\r\n" + host + "Upgrade: websocket\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9110 7.8", "Upgrade with content", "POST / HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi"},
		{"9113 3.1", "h2c is no upgrade to offer", "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C, HTTP/2.0, TLS/1.2, websocket\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"9113 3.1", "names of drafts", "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: h2c-14, H2-16, HTTP2, spdy/3.1, h3-29, tls1.3\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9113 3.1", "h2c alone", "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9110 10.1.1", "Expect passes", "POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na", "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na"},
		{"9110 10.1.1", "Expect of HTTP/1.0 does not", "POST / HTTP/1.0\r\n" + host + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\na"},
		{"9112 3.2", "HTTP/1.0 without Host", "GET /x HTTP/1.0\r\n\r\n", "GET /x HTTP/1.1\r\nHost: \r\n\r\n"},
		{"9110 7.2", "Host with IPv6 and port", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n"},
		{"9112 3", "own method", "PROPFIND /x HTTP/1.1\r\n" + host + "\r\n", "PROPFIND /x HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"9112 3.2.1", "path that begins with two slashes", "GET //b.example/x HTTP/1.1\r\n" + host + "\r\n", "GET //b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"},
	} {
		for _, step := range []int{0, 1, 7} {
			t.Run(fmt.Sprintf("%s/%s/%d", tt.section, tt.name, step), func(t *testing.T) {
				_, got, err := forward(tt.raw, step)
				if err != nil {
					t.Fatal(err)
				}
				want := tt.want
				if step != 0 && strings.Contains(want, "\r\n5\r\nhello") {
					// Pieces that come apart go out apart.
					got, want = dechunk(t, got), dechunk(t, want)
				}
				if got != want {
					t.Errorf("got  %q\nwant %q", got, want)
				}
			})
		}
	}
}

// dechunk gives head and content of a chunked message.
func dechunk(t *testing.T, wire string) string {
	t.Helper()
	head, coded, _ := strings.Cut(wire, "\r\n\r\n")
	var d chunkDecoder
	p := []byte(coded)
	n, used, err := d.decode(p)
	if err != nil || d.state != chunkDone || used != len(coded) {
		t.Fatalf("broken chunks in %q: %v", wire, err)
	}
	return head + "\r\n\r\n" + string(p[:n])
}

func TestRequestParts(t *testing.T) {
	req, _, err := forward("CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", 0)
	if !errors.Is(err, exchange.ErrInvalidField) || req.Form != exchange.AuthorityForm || req.Authority != "b.example:443" || req.Path != "" {
		t.Errorf("CONNECT: %+v %v", req, err)
	}
	req, _, _ = forward("GET https://B.example/p?q?r HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 0)
	if req.Scheme != "https" || req.Authority != "B.example" || req.Path != "/p" || req.Query != "q?r" || !req.Close || req.Form != exchange.AbsoluteForm {
		t.Errorf("absolute form: %+v", req)
	}
	for raw, closes := range map[string]bool{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":                                 false,
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, CLOSE\r\n\r\n":       true,
		"GET / HTTP/1.0\r\nHost: a\r\n\r\n":                                 true,
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n":       false,
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive,close\r\n\r\n": true,
	} {
		if req, _, err := forward(raw, 0); err != nil || req.Close != closes {
			t.Errorf("%q: close %v, %v", raw, req.Close, err)
		}
	}
}

func TestRequestRefused(t *testing.T) {
	const start = "POST / HTTP/1.1\r\nHost: a.example\r\n"
	many := strings.Repeat("A: b\r\n", maxFields)
	for _, tt := range []struct{ section, name, raw, want string }{
		{"9112 2.2", "bare LF in the first line", "GET / HTTP/1.1\nHost: a\r\n\r\n", "bare LF"},
		{"9112 2.2", "bare LF behind a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", "bare LF"},
		{"9112 2.2", "bare LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", "bare LF"},
		{"9112 2.2", "lone CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", "control character"},
		{"9112 2.2", "lone CR in the first line", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", "target"},
		{"9112 2.2", "two CR", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "version"},
		{"9112 2.2", "two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "empty line"},
		{"9112 2.2", "whitespace before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "obs-fold"},
		{"9112 3", "leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", "request line"},
		{"9112 3", "two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "version"},
		{"9112 3", "space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "version"},
		{"9112 3", "trailing space", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "version"},
		{"9112 3", "tab", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", "request line"},
		{"9112 3", "NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "target"},
		{"9112 3", "fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", "target"},
		{"9112 3", "HTTP/0.9", "GET /\r\n\r\n", "without a version"},
		{"9112 3.1", "method that is no token", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", "method"},
		{"9112 3.1", "long method", strings.Repeat("A", 33) + " / HTTP/1.1\r\nHost: a\r\n\r\n", "method"},
		{"9112 2.3", "version 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "version"},
		{"9112 2.3", "version 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "version"},
		{"9112 2.3", "version 01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", "version"},
		{"9112 2.3", "version in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", "version"},
		{"9112 3.2", "no Host", "GET / HTTP/1.1\r\n\r\n", "without Host"},
		{"9112 3.2", "two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "more than one Host"},
		{"9112 3.2", "two Hosts with absolute form", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "more than one Host"},
		{"9112 3.2", "empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "empty Host"},
		{"9112 3.2", "Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "Host that"},
		{"9112 3.2", "Host with userinfo", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "Host that"},
		{"9112 3.2", "Host with two names", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "Host that"},
		{"9112 3.2", "Host with a percent", "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", "Host that"},
		{"9112 3.2", "Host with a signed port", "GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", "Host that"},
		{"9112 3.2", "Host with a big port", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "Host that"},
		{"9112 3.2", "Host with a zone", "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", "Host that"},
		{"9112 3.2.2", "absolute form with another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "neither a path"},
		{"9112 3.2.2", "absolute form with userinfo", "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "authority"},
		{"9112 3.2.2", "absolute form without a host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "authority"},
		{"9112 3.2.2", "absolute form with a backslash", "GET http://a\\@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "authority"},
		{"9112 3.2.1", "relative path", "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "neither a path"},
		{"9112 3.2.3", "CONNECT without a port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"},
		{"9112 3.2.3", "CONNECT to a path", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"},
		{"9112 3.2.3", "CONNECT to a URI", "CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"},
		{"9112 3.2.3", "authority form with GET", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "neither a path"},
		{"9110 9.3.6", "CONNECT with content", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "CONNECT with content"},
		{"9112 3.2.4", "asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "asterisk"},
		{"9112 5", "no colon", "GET / HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n", "without a colon"},
		{"9112 5.1", "space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", "before the colon"},
		{"9112 5.1", "space before the colon of Content-Length", start + "Content-Length : 1\r\n\r\na", "before the colon"},
		{"9112 5", "empty name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "empty field name"},
		{"9112 5", "name that is no token", "GET / HTTP/1.1\r\nHost: a\r\nA(: b\r\n\r\n", "field name"},
		{"9112 5", "NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nA\x00: b\r\n\r\n", "field name"},
		{"9110 5.5", "NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n", "control character"},
		{"9110 5.5", "control in a value", "GET / HTTP/1.1\r\nHost: a\r\nA: \x0b\r\n\r\n", "control character"},
		{"9110 5.5", "DEL in a value", "GET / HTTP/1.1\r\nHost: a\r\nA: \x7f\r\n\r\n", "control character"},
		{"9112 5.2", "obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", "obs-fold"},
		{"9112 5.2", "obs-fold of Transfer-Encoding", start + "Transfer-Encoding:\r\n chunked\r\n\r\n", "obs-fold"},
		{"9110 5.4", "too many fields", "GET / HTTP/1.1\r\n" + many + "Host: a\r\n\r\n", "too many"},
		{"9110 5.4", "one field over 64 KiB", start + "A: " + strings.Repeat("b", maxHead) + "\r\n\r\n", "64 KiB"},
		{"9110 5.4", "header section over 64 KiB", start + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 66) + "\r\n", "64 KiB"},
		{"9110 5.4", "endless first line", "GET /" + strings.Repeat("b", maxHead+100), "64 KiB"},
		{"9112 6.3", "repeated Content-Length", start + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "repeated Content-Length"},
		{"9112 6.3", "list in Content-Length", start + "Content-Length: 1, 1\r\n\r\na", "plain decimal"},
		{"9110 8.6", "signed Content-Length", start + "Content-Length: +1\r\n\r\na", "plain decimal"},
		{"9110 8.6", "negative Content-Length", start + "Content-Length: -1\r\n\r\na", "plain decimal"},
		{"9110 8.6", "hexadecimal Content-Length", start + "Content-Length: 0x1\r\n\r\na", "plain decimal"},
		{"9110 8.6", "Content-Length with a space", start + "Content-Length: 1 1\r\n\r\na", "plain decimal"},
		{"9110 8.6", "empty Content-Length", start + "Content-Length:\r\n\r\na", "plain decimal"},
		{"9110 8.6", "huge Content-Length", start + "Content-Length: 18446744073709551617\r\n\r\na", "plain decimal"},
		{"9112 6.1", "both framings", start + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "together with"},
		{"9112 6.1", "both framings, other order", start + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", "together with"},
		{"9112 6.1", "repeated Transfer-Encoding", start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "repeated"},
		{"9112 6.1", "chunked twice", start + "Transfer-Encoding: chunked, chunked\r\n\r\n", "more than once"},
		{"9112 6.1", "chunked with a parameter", start + "Transfer-Encoding: chunked;a=b\r\n\r\n", "parameters"},
		{"9112 6.1", "vertical tab before chunked", start + "Transfer-Encoding: \x0bchunked\r\n\r\n", "control character"},
		{"9112 6.1", "quoted chunked", start + "Transfer-Encoding: \"chunked\"\r\n\r\n", "list of codings"},
		{"9112 6.1", "empty Transfer-Encoding", start + "Transfer-Encoding:\r\n\r\n", "list of codings"},
		{"9112 6.1", "Transfer-Encoding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "in HTTP/1.0"},
		{"9112 7.1", "broken chunk in the first bytes", start + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "hexadecimal"},
		{"9110 7.6.1", "Connection that is no list of tokens", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", "Connection"},
		{"9110 7.6.1", "too many options", "GET / HTTP/1.1\r\nHost: a\r\nConnection: " + strings.Repeat("a,", 40) + "\r\n\r\n", "too many options"},
		{"9110 7.8", "Upgrade that is no list", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a b\r\n\r\n", "Upgrade"},
	} {
		for _, step := range []int{0, 1} {
			if step == 1 && len(tt.raw) > 4096 {
				step = 997
			}
			t.Run(fmt.Sprintf("%s/%s/%d", tt.section, tt.name, step), func(t *testing.T) {
				_, wire, err := forward(tt.raw, step)
				var bad *exchange.MalformedError
				if !errors.As(err, &bad) || !strings.Contains(bad.Text, tt.want) {
					t.Fatalf("error %v, want %q", err, tt.want)
				}
				if bad.Status != 400 || bad.Refusal().Code() != 400 {
					t.Errorf("status %d", bad.Status)
				}
				// A broken chunk that comes later than the head can only cut
				// the request off.
				if wire != "" && (step == 0 || !strings.Contains(tt.section, "7.1")) {
					t.Errorf("the upstream got %q", wire)
				}
			})
		}
	}
}

func TestOtherCodings(t *testing.T) {
	for _, value := range []string{"gzip", "gzip, chunked", "chunked, gzip", "identity", "xchunked", "chunked-"} {
		_, wire, err := forward("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "+value+"\r\n\r\n0\r\n\r\n", 0)
		var bad *exchange.MalformedError
		if !errors.As(err, &bad) || bad.Refusal().Code() != 501 || wire != "" {
			t.Errorf("%q: %v, upstream got %q", value, err, wire)
		}
	}
}

func TestRequestCut(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want error
	}{
		{"", io.EOF},
		{"GET / HT", io.ErrUnexpectedEOF},
		{"GET / HTTP/1.1\r\nHost: a\r\n", io.ErrUnexpectedEOF},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel", io.ErrUnexpectedEOF},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", io.ErrUnexpectedEOF},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", io.ErrUnexpectedEOF},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n", io.ErrUnexpectedEOF},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\nA: b\r\n", io.ErrUnexpectedEOF},
	} {
		for _, step := range []int{0, 1} {
			_, wire, err := forward(tt.raw, step)
			if !errors.Is(err, tt.want) {
				t.Errorf("%q: %v, want %v", tt.raw, err, tt.want)
			}
			if strings.HasSuffix(wire, "0\r\n\r\n") {
				t.Errorf("%q: the upstream sees a clean end: %q", tt.raw, wire)
			}
		}
	}
}
