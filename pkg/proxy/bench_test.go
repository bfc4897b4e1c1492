package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// discard is an Audit that keeps nothing.
type discard struct{}

func (discard) Healthy() error      { return nil }
func (discard) NextID() string      { return "id" }
func (discard) Record(*audit.Event) {}

// canned answers each request on a connection with the same bytes, without
// allocating: what is measured is the proxy and a client as poor.
func canned(conn net.Conn, response []byte) {
	defer conn.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if n < 4 || string(buf[n-4:n]) != "\r\n\r\n" {
			continue
		}
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

func benchGate(b *testing.B) (*gate, *site, []byte) {
	var extra strings.Builder
	extra.WriteString("rules:\n")
	for i := range 100 {
		fmt.Fprintf(&extra, "  - { name: r%d, match: { hosts: [h%d.example.com], methods: [GET] }, action: allow }\n", i, i)
	}
	extra.WriteString("  - { name: api, match: { hosts: [api.example.com], paths: [/**] }, private: [127.0.0.0/8], action: allow }\n")
	g := newGate(b, extra.String(), func(o *Options) { o.Audit = discard{} })
	cert, err := g.internet.leaf("api.example.com", nil)
	if err != nil {
		b.Fatal(err)
	}
	response := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"), make([]byte, 1024)...)
	ln, s := g.listen("127.0.0.1:0")
	b.Cleanup(func() { ln.Close() })
	ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go canned(c, response)
		}
	}()
	g.know("api.example.com", s.addr.Addr())
	return g, s, response
}

const benchRequest = "GET /some/path HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"

// BenchmarkExchange is one keep-alive exchange of 1 KB, TLS to TLS, with a
// hundred rules. Client and upstream are in the same process.
func BenchmarkExchange(b *testing.B) {
	g, s, response := benchGate(b)
	c := g.mustTLS(1, s.dst(), "api.example.com")
	c.SetDeadline(time.Time{})
	got := make([]byte, len(response))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(c, benchRequest); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDirectExchange is the same without the proxy, to be subtracted.
func BenchmarkDirectExchange(b *testing.B) {
	g, s, response := benchGate(b)
	c, err := tls.Dial("tcp", s.dst(), &tls.Config{ServerName: "api.example.com", RootCAs: g.internet.pool(), NextProtos: []string{"http/1.1"}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, len(response))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(c, benchRequest); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnection is a new inspected connection with one request; the
// upstream's is pooled and the leaf is cached.
func BenchmarkConnection(b *testing.B) {
	g, s, response := benchGate(b)
	got := make([]byte, len(response))
	b.ReportAllocs()
	for b.Loop() {
		c := g.mustTLS(1, s.dst(), "api.example.com")
		io.WriteString(c, benchRequest)
		if _, err := io.ReadFull(bufio.NewReader(c), got); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
