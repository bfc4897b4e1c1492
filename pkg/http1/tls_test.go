package http1

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/exchange"
)

// A countingConn counts what would be system calls.
type countingConn struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func (c *countingConn) NetConn() net.Conn { return c.Conn }

func tlsConfig(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{
		ServerName: "a", RootCAs: roots, DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
}

// Over TLS, waiting without a buffer and reading in two steps costs no further
// system call: one read and one write for each message.
func TestSystemCallsOverTLS(t *testing.T) {
	config := tlsConfig(t)
	clientTCP, downTCP := tcpPair(t)
	upTCP, originTCP := tcpPair(t)
	down, up := &countingConn{Conn: downTCP}, &countingConn{Conn: upTCP}
	client, origin := tls.Client(clientTCP, config), tls.Server(originTCP, config)
	server, upstream := tls.Server(down, config), tls.Client(up, config)
	done := make(chan error, 2)
	go func() { done <- client.Handshake() }()
	go func() { done <- origin.Handshake() }()
	if err := errors.Join(server.Handshake(), upstream.Handshake(), <-done, <-done); err != nil {
		t.Fatal(err)
	}
	var codec Codec
	s, c := codec.Server(server), codec.Client(upstream)
	for i := range 3 {
		down.reads.Store(0)
		down.writes.Store(0)
		up.reads.Store(0)
		up.writes.Store(0)
		go func() {
			client.Write([]byte(benchRequest))
			p := make([]byte, len(benchRequest))
			io.ReadAtLeast(origin, p, 300)
			origin.Write([]byte(benchResponse))
		}()
		var x exchange.Exchange
		if err := s.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := s.ReadRequest(&x.Request); err != nil {
			t.Fatal(err)
		}
		if err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil {
			t.Fatal(err)
		}
		if reusable, err := c.Finish(&x.Request); !reusable || err != nil || !s.Finish() {
			t.Fatal(reusable, err)
		}
		got := [4]int64{down.reads.Load(), down.writes.Load(), up.reads.Load(), up.writes.Load()}
		if got != [4]int64{1, 1, 1, 1} {
			t.Errorf("exchange %d: reads and writes, client and upstream: %v", i, got)
		}
		p := make([]byte, 4096)
		client.Read(p)
	}
}

// Over TLS a cut body that only the end of the connection delimits comes
// without the alert that vouches for the end.
func TestCutOverTLS(t *testing.T) {
	config := tlsConfig(t)
	clientTCP, downTCP := tcpPair(t)
	client, server := tls.Client(clientTCP, config), tls.Server(downTCP, config)
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	var codec Codec
	s, c := codec.Server(server), codec.Client(&memConn{in: []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")})
	send(t, client, get10)
	var x exchange.Exchange
	if err := s.ReadRequest(&x.Request); err != nil {
		t.Fatal(err)
	}
	if err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteResponse(&x.Request, &x.Response); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if got, err := io.ReadAll(client); err == nil {
		t.Errorf("the client takes %q for whole", got)
	}
}
