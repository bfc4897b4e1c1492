package sniff

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tcpPair gives both ends of a TCP connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestSniffProtocols(t *testing.T) {
	hello := string(records(buildHello(sni("example.com")), 16384))
	for _, tt := range []struct {
		name, sent string
		want       Protocol
	}{
		{"tls", hello, TLS},
		{"http", "GET / HTTP/1.1\r\n", HTTP1},
		{"connect", "CONNECT example.com:443 HTTP/1.1\r\n", HTTP1},
		{"absolute form", "GET http://example.com/ HTTP/1.1\r\n", HTTP1},
		{"http behind an empty line", "\r\nGET / HTTP/1.1\r\n", HTTP1},
		{"http behind spaces", "  GET / HTTP/1.1\r\n", HTTP1},
		{"http in lower case", "get / http/1.1\r\n", HTTP1},
		{"http/0.9", "GET /secret\r\n", HTTP1},
		{"unknown method", "PURGE /x HTTP/1.1\r\n", HTTP1},
		{"bare LF", "GET / HTTP/1.1\n", HTTP1},
		{"bare CR", "GET / HTTP/1.1\rHost: x\r\r", HTTP1},
		{"tab", "GET\t/\tHTTP/1.1\r\n", HTTP1},
		{"http/9", "GET / HTTP/9.9\r\n", HTTP1},
		{"endless line", "GET /" + strings.Repeat("a", maxLine), HTTP1},
		{"http/2", preface, HTTP2},
		{"http/2 preface that turns", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", HTTP1},
		{"ssh", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Other},
		{"smtp", "EHLO example.com\r\n", Other},
		{"memcached", "get key\r\n", Other},
		{"redis", "*1\r\n$4\r\nPING\r\n", Other},
		{"postgres", "\x00\x00\x00\x08\x04\xd2\x16\x2f", Other},
		{"nearly ssl 2", "\x80\x2e\x01\x02\x01", Other},
		{"msgpack", "\x94\x00\x00\xa1", Other},
		{"tls byte only by chance", "\x16\x00", Other},
		{"long word", strings.Repeat("a", 40) + ":", Other},
		{"long method", strings.Repeat("A", 40) + " / HTTP/1.1\r\n", HTTP1},
		{"endless method", strings.Repeat("A", maxLine+1), HTTP1},
		{"long target", "FOO /" + strings.Repeat("a", maxLine), HTTP1},
		{"form feeds", "GET\f/\fHTTP/1.1\r\n", HTTP1},
		{"form feeds of http/0.9", "GET\f/x\r\n", HTTP1},
		{"form feed in front", "\fGET / HTTP/1.1\r\n", HTTP1},
		{"separators of Python", "GET\x1c/\xa0HTTP/1.1\r\n", HTTP1},
		{"bare CR between words", "GET\r/\rHTTP/1.1\r\n", HTTP1},
		{"rtsp", "DESCRIBE / RTSP/1.0\r\n", HTTP1},
		{"ice", "SOURCE / ICE/1.0\r\n", HTTP1},
		{"ldap", "\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", Other},
		{"pop3", "QUIT\r\n", Other},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{len(tt.sent), 1} {
				if step == 1 && len(tt.sent) > 4096 {
					continue
				}
				client, server := tcpPair(t)
				go func() {
					for p := tt.sent; p != ""; p = p[min(step, len(p)):] {
						client.Write([]byte(p[:min(step, len(p))]))
					}
				}()
				var s Sniffer
				conn, got, err := s.Sniff(server, nil, 30*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if got.Protocol != tt.want || got.HelloErr != nil || got.Silent {
					t.Errorf("step %d: %+v, want %v", step, got, tt.want)
				}
				if tt.want == TLS && got.Hello.ServerName != "example.com" {
					t.Errorf("hello %+v", got.Hello)
				}
				replayed := make([]byte, len(tt.sent))
				if _, err := io.ReadFull(conn, replayed); err != nil || string(replayed) != tt.sent {
					t.Errorf("step %d: replayed %q, %v", step, replayed, err)
				}
			}
		})
	}
}

func TestSniffEnds(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		closes     bool
		want       Result
		helloErr   bool
	}{
		{"silent", "", false, Result{Silent: true}, false},
		{"closed at once", "", true, Result{Closed: true}, false},
		{"half a method", "GE", false, Result{Protocol: HTTP1}, false},
		{"an empty line", "\r\n", false, Result{Protocol: HTTP1}, false},
		{"half a preface", "PRI * HT", false, Result{Protocol: HTTP1}, false},
		{"half a line of another method", "FOO / HTT", false, Result{Protocol: HTTP1}, false},
		{"a word and the end", "PING", true, Result{Closed: true}, false},
		{"ssl 2", "\x80\x2e\x01\x03\x03", false, Result{Protocol: TLS}, true},
		{"the first byte of ssl 2", "\x80", false, Result{Protocol: TLS}, true},
		{"the first byte of a record", "\x16", false, Result{Protocol: TLS}, true},
		{"half a request line", "GET /x", false, Result{Protocol: HTTP1}, false},
		{"half a hello", "\x16\x03\x01\x00\x50\x01", false, Result{Protocol: TLS}, true},
		{"closed within a hello", "\x16\x03\x01\x00\x50\x01", true, Result{Protocol: TLS, Closed: true}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, server := tcpPair(t)
			client.Write([]byte(tt.sent))
			// What was sent is looked at within this time, however busy the machine is.
			patience := time.Second
			if tt.closes {
				client.CloseWrite()
				patience = 30 * time.Second
			}
			var s Sniffer
			conn, got, err := s.Sniff(server, nil, patience)
			if err != nil {
				t.Fatal(err)
			}
			if (got.HelloErr != nil) != tt.helloErr {
				t.Errorf("HelloErr %v", got.HelloErr)
			}
			if got.Protocol != tt.want.Protocol || got.Silent != tt.want.Silent || got.Closed != tt.want.Closed {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if string(conn.Peeked()) != tt.sent {
				t.Errorf("peeked %q", conn.Peeked())
			}
			// The deadline is cleared: the connection goes on.
			if !tt.closes {
				client.Write([]byte("more"))
				p := make([]byte, len(tt.sent)+4)
				if _, err := io.ReadFull(conn, p); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSniffBehindPrefix(t *testing.T) {
	client, server := tcpPair(t)
	client.Write([]byte("/ HTTP/1.1\r\n"))
	var s Sniffer
	conn, got, err := s.Sniff(server, []byte("GET "), 30*time.Second)
	if err != nil || got.Protocol != HTTP1 || string(conn.Peeked()) != "GET / HTTP/1.1\r\n" {
		t.Fatalf("%+v %v", got, err)
	}
}

func TestConnRelaysWhole(t *testing.T) {
	const size = 8 << 20
	payload := bytes.Repeat([]byte("sallyport is a gate.\n"), size/21)
	client, worker := tcpPair(t)
	up, origin := tcpPair(t)
	go func() {
		client.Write(payload)
		client.CloseWrite()
	}()
	var s Sniffer
	conn, _, err := s.Sniff(worker, nil, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if len(conn.Peeked()) == 0 {
		t.Fatal("nothing was peeked")
	}
	sum := make(chan [32]byte)
	go func() {
		h := sha256.New()
		io.Copy(h, origin)
		sum <- [32]byte(h.Sum(nil))
	}()
	n, err := io.Copy(Replay(up, nil), conn)
	if err != nil || n != int64(len(payload)) {
		t.Fatalf("%d bytes of %d, %v", n, len(payload), err)
	}
	if err := Replay(up, nil).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if <-sum != sha256.Sum256(payload) {
		t.Error("the bytes differ")
	}
}

func TestConnGivesSocket(t *testing.T) {
	_, server := tcpPair(t)
	var conn net.Conn = Replay(server, []byte("x"))
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(f uintptr) { fd = int(f) }); err != nil || fd < 0 {
		t.Errorf("fd %d, %v", fd, err)
	}
	client, _ := net.Pipe()
	if _, err := Replay(client, nil).SyscallConn(); err == nil {
		t.Error("a pipe has a socket")
	}
}

func FuzzClassify(f *testing.F) {
	for _, seed := range []string{"", "GET / HTTP/1.1\r\n", preface, "\x16\x03\x01", "SSH-2.0-x\r\n", " \r\n get\t/ http/1.0\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		protocol, known := classify(p)
		if !known && len(p) > maxLine {
			t.Errorf("undecided after %d bytes", len(p))
		}
		if !known || protocol == TLS {
			return
		}
		// What is known stays known when more comes.
		if again, still := classify(append(p[:len(p):len(p)], "GET / HTTP/1.1\r\n"...)); !still || again != protocol {
			t.Errorf("%v became %v (%v)", protocol, again, still)
		}
	})
}

func BenchmarkSniffTLS(b *testing.B) {
	raw := records(buildHello(sni("example.com"), alpn("h2", "http/1.1")), 16384)
	client, server := net.Pipe()
	defer client.Close()
	var s Sniffer
	b.ReportAllocs()
	for b.Loop() {
		conn, _, err := s.Sniff(server, raw, 0)
		if err != nil {
			b.Fatal(err)
		}
		conn.consume(len(conn.Peeked()))
	}
}
