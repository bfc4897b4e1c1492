package http1

import (
	"net"
	"strings"
	"testing"

	"sallyport/pkg/exchange"
)

const benchRequest = "POST /v1/search?q=sallyport&page=1 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: python-requests/2.34.0\r\n" +
	"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n" +
	"Content-Type: application/json\r\nContent-Length: 64\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"a\":1}} "

var benchResponse = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n" +
	"Content-Length: 1024\r\nConnection: keep-alive\r\nETag: \"5f3e-1\"\r\nCache-Control: no-cache\r\nAlt-Svc: h3=\":443\"\r\n\r\n" + strings.Repeat("a", 1024)

// A loopConn gives the same message again for each one written elsewhere.
type loopConn struct {
	net.Conn
	message string
	off     int
}

func (c *loopConn) Read(p []byte) (int, error) {
	n := copy(p, c.message[c.off:])
	c.off = (c.off + n) % len(c.message)
	return n, nil
}

func (c *loopConn) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkExchange is all that the codec does for one exchange: read a
// request of 64 bytes, write it, read a response of 1 KiB, write it, without
// system calls and TLS.
func BenchmarkExchange(b *testing.B) {
	var codec Codec
	s, c := codec.Server(&loopConn{message: benchRequest}), codec.Client(&loopConn{message: benchResponse})
	var x exchange.Exchange
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Wait(); err != nil {
			b.Fatal(err)
		}
		if err := s.ReadRequest(&x.Request); err != nil {
			b.Fatal(err)
		}
		if err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
			b.Fatal(err)
		}
		if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil {
			b.Fatal(err)
		}
		if reusable, err := c.Finish(&x.Request); !reusable || err != nil {
			b.Fatal(reusable, err)
		}
		if !s.Finish() {
			b.Fatal("closing")
		}
	}
}

func BenchmarkParseRequest(b *testing.B) {
	end := strings.Index(benchRequest, "\r\n\r\n") + 4
	raw := []byte(benchRequest[:end])
	var req exchange.Request
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		req.Reset()
		if _, _, err := parseRequest(raw, &req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	end := strings.Index(benchResponse, "\r\n\r\n") + 4
	raw := []byte(benchResponse[:end])
	req := exchange.Request{Method: "GET"}
	var resp exchange.Response
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		resp.Reset()
		if _, _, err := parseResponse(raw, &req, &resp); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBody streams a body of 1 MiB.
func BenchmarkBody(b *testing.B) {
	data := strings.Repeat("a", 1<<20)
	for name, message := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + data,
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("4000\r\n"+data[:0x4000]+"\r\n", 64) + "0\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			var codec Codec
			s, c := codec.Server(&loopConn{message: get}), codec.Client(&loopConn{message: message})
			var x exchange.Exchange
			b.ReportAllocs()
			b.SetBytes(1 << 20)
			for b.Loop() {
				if err := s.ReadRequest(&x.Request); err != nil {
					b.Fatal(err)
				}
				if err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
					b.Fatal(err)
				}
				if n, err := s.WriteResponse(&x.Request, &x.Response); err != nil || n != 1<<20 {
					b.Fatal(n, err)
				}
				if reusable, err := c.Finish(&x.Request); !reusable || err != nil {
					b.Fatal(reusable, err)
				}
			}
		})
	}
}
