package http1

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"sallyport/pkg/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve forwards the exchanges of down to up until one side ends, the way a
// proxy does, and gives the last error.
func serve(codec *Codec, down, up net.Conn) error {
	s, c := codec.Server(down), codec.Client(up)
	defer s.Close()
	defer c.Close()
	var x exchange.Exchange
	for {
		if err := s.Wait(); err != nil {
			return err
		}
		if err := s.ReadRequest(&x.Request); err != nil {
			return err
		}
		err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{HeaderTimeout: 30 * time.Second, Informational: func(r *exchange.Response) error {
			return s.WriteInformational(&x.Request, r)
		}})
		if err == nil {
			_, err = s.WriteResponse(&x.Request, &x.Response)
		}
		reusable, ferr := c.Finish(&x.Request)
		if err == nil {
			err = ferr
		}
		if err != nil {
			return err
		}
		if !s.Finish() || !reusable {
			return nil
		}
	}
}

// start serves between a fresh client and a fresh origin.
func start(t *testing.T) (client, origin *net.TCPConn, done <-chan error) {
	t.Helper()
	client, down := tcpPair(t)
	up, origin := tcpPair(t)
	for _, c := range []*net.TCPConn{client, origin} {
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	ch := make(chan error, 1)
	go func() { ch <- serve(new(Codec), down, up) }()
	return client, origin, ch
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	p := make([]byte, len(want))
	if n, err := io.ReadFull(c, p); err != nil || string(p) != want {
		t.Fatalf("got %q, %v\nwant %q", p[:n], err, want)
	}
}

func TestPipelinedRequests(t *testing.T) {
	client, origin, done := start(t)
	one := "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
	two := "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\n\r\n"
	three := "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
	send(t, client, one+two+three)
	for _, request := range []string{one, two, three} {
		expect(t, origin, request)
		send(t, origin, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
		expect(t, client, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
	}
	client.Close()
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

func TestExpectContinue(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
	t.Run("continued", func(t *testing.T) {
		client, origin, done := start(t)
		send(t, client, head)
		expect(t, origin, head)
		send(t, origin, "HTTP/1.1 100 Continue\r\n\r\n")
		expect(t, client, "HTTP/1.1 100 Continue\r\n\r\n")
		send(t, client, "hi")
		expect(t, origin, "hi")
		send(t, origin, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		expect(t, client, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		client.Close()
		if err := <-done; err != io.EOF {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		client, origin, done := start(t)
		send(t, client, head)
		expect(t, origin, head)
		send(t, origin, "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
		expect(t, client, "HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		client.Close()
		// Whether we stop waiting for the body or the client leaves comes first.
		if err := <-done; err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}

// Both directions stream at the same time, and a piece never waits.
func TestStreamsBothWays(t *testing.T) {
	client, origin, done := start(t)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	expect(t, origin, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	send(t, origin, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	expect(t, client, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for range 100 {
		send(t, client, "4\r\nping\r\n")
		expect(t, origin, "4\r\nping\r\n")
		send(t, origin, "4\r\npong\r\n")
		expect(t, client, "4\r\npong\r\n")
	}
	send(t, client, "0\r\n\r\n")
	expect(t, origin, "0\r\n\r\n")
	send(t, origin, "0\r\nX-Sum: 1\r\n\r\n")
	expect(t, client, "0\r\nX-Sum: 1\r\n\r\n")
	// The connections go on.
	send(t, client, get)
	expect(t, origin, get)
	send(t, origin, "HTTP/1.1 204 No\r\n\r\n")
	expect(t, client, "HTTP/1.1 204 No\r\n\r\n")
	client.Close()
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

// An upstream that answers and stops reading: the client gets the answer, whole.
func TestEarlyResponse(t *testing.T) {
	client, origin, done := start(t)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		chunk := make([]byte, 64<<10)
		for {
			if _, err := client.Write(chunk); err != nil {
				return
			}
		}
	}()
	answer := "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
	send(t, origin, answer)
	expect(t, client, answer)
	client.Close()
	<-done
	<-stop
}

func TestRequestBodyCutReachesUpstreamAsCut(t *testing.T) {
	for name, tt := range map[string]struct {
		head, body string
		want       string
	}{
		"closed":  {"Content-Length: 10", "hel", "unexpected EOF"},
		"chunk":   {"Transfer-Encoding: chunked", "zz\r\n", "chunk size"},
		"trailer": {"Transfer-Encoding: chunked", "1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n", "trailer"},
	} {
		t.Run(name, func(t *testing.T) {
			client, origin, done := start(t)
			send(t, client, "POST / HTTP/1.1\r\nHost: a\r\n"+tt.head+"\r\n\r\n")
			expect(t, origin, "POST / HTTP/1.1\r\nHost: a\r\n"+tt.head+"\r\n\r\n")
			send(t, client, tt.body)
			client.CloseWrite()
			rest, err := io.ReadAll(origin)
			if err == nil || strings.HasSuffix(string(rest), "0\r\n\r\n") {
				t.Errorf("origin got %q and a clean end (%v)", rest, err)
			}
			var rt *exchange.RoundTripError
			if err := <-done; !errors.As(err, &rt) || rt.Op != "read request body" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestBigBodiesIntact(t *testing.T) {
	const size = 4<<20 + 17
	payload := bytes.Repeat([]byte("sallyport"), size/9+1)[:size]
	for _, chunked := range []bool{false, true} {
		client, origin, done := start(t)
		go func() {
			request, err := http.ReadRequest(bufio.NewReader(origin))
			if err != nil {
				t.Error(err)
				return
			}
			h := sha256.New()
			if _, err := io.Copy(h, request.Body); err != nil {
				t.Error(err)
			}
			if [32]byte(h.Sum(nil)) != sha256.Sum256(payload) {
				t.Error("the request's body differs")
			}
			resp := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(bytes.NewReader(payload)), ContentLength: size}
			if chunked {
				resp.ContentLength = -1
				resp.TransferEncoding = []string{"chunked"}
			}
			resp.Write(origin)
		}()
		request, _ := http.NewRequest("POST", "http://a/", bytes.NewReader(payload))
		if chunked {
			request.ContentLength = -1
		}
		if err := request.Write(client); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(client), request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, payload) {
			t.Errorf("chunked %v: %d bytes, %v", chunked, len(got), err)
		}
		client.Close()
		<-done
	}
}

// A body whose end is the end of the connection is reset when it is cut.
func TestCutToHTTP10IsReset(t *testing.T) {
	client, origin, done := start(t)
	send(t, client, get10)
	expect(t, origin, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	send(t, origin, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
	expect(t, client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhel")
	origin.Close()
	if n, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("clean end: %d, %v", n, err)
	}
	<-done
}

func TestSwitchedConnection(t *testing.T) {
	var codec Codec
	client, down := tcpPair(t)
	up, origin := tcpPair(t)
	s, c := codec.Server(down), codec.Client(up)
	send(t, client, ws+"early client bytes")
	send(t, origin, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly server bytes")
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
	if x.Response.Upgrade != "websocket" {
		t.Errorf("upgrade %q", x.Response.Upgrade)
	}
	if reusable, err := c.Finish(&x.Request); reusable || err != nil {
		t.Errorf("reusable %v, %v", reusable, err)
	}
	if conn, rest := s.Detach(); conn != down || string(rest) != "early client bytes" {
		t.Errorf("client side: %q", rest)
	}
	if conn, rest := c.Detach(); conn != up || string(rest) != "early server bytes" {
		t.Errorf("upstream side: %q", rest)
	}
}

func TestHeaderTimeout(t *testing.T) {
	for name, body := range map[string]string{"no body": "Content-Length: 0\r\n\r\n", "body that comes later": "Content-Length: 2\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			var codec Codec
			client, down := tcpPair(t)
			up, _ := tcpPair(t)
			s, c := codec.Server(down), codec.Client(up)
			send(t, client, "POST / HTTP/1.1\r\nHost: a\r\n"+body)
			var x exchange.Exchange
			if err := s.ReadRequest(&x.Request); err != nil {
				t.Fatal(err)
			}
			if x.Request.Body != nil {
				send(t, client, "hi")
			}
			err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{HeaderTimeout: 30 * time.Millisecond})
			var timed net.Error
			if !errors.As(err, &timed) || !timed.Timeout() {
				t.Errorf("error %v", err)
			}
			if reusable, _ := c.Finish(&x.Request); reusable {
				t.Error("reusable")
			}
			c.Close()
		})
	}
}

func TestAlive(t *testing.T) {
	var codec Codec
	up, origin := tcpPair(t)
	c := codec.Client(up)
	if !c.Alive() {
		t.Error("a fresh connection is not alive")
	}
	send(t, origin, "HTTP/1.1 408 Timeout\r\n\r\n")
	for c.Alive() {
		time.Sleep(time.Millisecond)
	}
	up, origin = tcpPair(t)
	c = codec.Client(up)
	origin.Close()
	for c.Alive() {
		time.Sleep(time.Millisecond)
	}
}

// An idle connection holds no lent memory.
func TestIdleHoldsNothing(t *testing.T) {
	var codec Codec
	client, down := tcpPair(t)
	s := codec.Server(down)
	send(t, client, get)
	var x exchange.Exchange
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadRequest(&x.Request); err != nil {
		t.Fatal(err)
	}
	path := x.Request.Path
	refusal().Answer(&x.Request, &x.Response)
	if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil || !s.Finish() {
		t.Fatal(err)
	}
	go client.CloseWrite()
	if err := s.Wait(); err != io.EOF || s.rd.a != nil {
		t.Errorf("%v, arena %v", err, s.rd.a != nil)
	}
	if path != "/" {
		t.Errorf("path became %q", path)
	}
}
