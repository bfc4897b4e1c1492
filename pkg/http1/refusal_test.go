package http1

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

func refusal() *exchange.Refusal {
	return &exchange.Refusal{Reason: policy.RuleDenied, Rule: "no-posts", Message: "refused; allow it with a rule", Event: "e1", RetryAfter: 1500 * time.Millisecond}
}

// The client of a refused request keeps its connection where the rest of the
// request is short, and reads the whole answer where it is not.
func TestRefusalKeepsOrCloses(t *testing.T) {
	const answer = `{"error":"refused; allow it with a rule","reason":"rule_denied","rule":"no-posts","event":"e1"}` + "\n"
	for _, tt := range []struct {
		name, head, body string
		late             string
		keep             bool
	}{
		{"no body", "", "", "", true},
		{"whole body here", "Content-Length: 2\r\n", "hi", "", true},
		{"short body on its way", "Content-Length: 2\r\n", "h", "i", true},
		{"chunked body on its way", "Transfer-Encoding: chunked\r\n", "1\r\nh", "\r\n0\r\n\r\n", true},
		{"long body", "Content-Length: 1000000\r\n", "h", strings.Repeat("i", 999999), false},
		{"body that never comes", "Content-Length: 2\r\nExpect: 100-continue\r\n", "", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var codec Codec
			client, down := tcpPair(t)
			client.SetDeadline(time.Now().Add(30 * time.Second))
			s := codec.Server(down)
			send(t, client, "POST / HTTP/1.1\r\nHost: a\r\n"+tt.head+"\r\n"+tt.body)
			var x exchange.Exchange
			if err := s.ReadRequest(&x.Request); err != nil {
				t.Fatal(err)
			}
			if tt.late != "" {
				go client.Write([]byte(tt.late))
			}
			refusal().Answer(&x.Request, &x.Response)
			if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil {
				t.Fatal(err)
			}
			keep := s.Finish()
			if keep != tt.keep {
				t.Errorf("kept %v", keep)
			}
			closed := make(chan struct{})
			if !keep {
				go func() { defer close(closed); s.Close() }()
			}
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != answer || resp.StatusCode != 403 || resp.Close == tt.keep ||
				resp.Header.Get("X-Sallyport-Reason") != "rule_denied" || resp.Header.Get("Retry-After") != "2" {
				t.Errorf("%+v %q %v", resp, got, err)
			}
			client.Close()
			if !keep {
				<-closed
			}
		})
	}
}

func TestRefusalOfHEADAndMalformed(t *testing.T) {
	var codec Codec
	conn := &memConn{in: []byte(head)}
	s := codec.Server(conn)
	var x exchange.Exchange
	if err := s.ReadRequest(&x.Request); err != nil {
		t.Fatal(err)
	}
	refusal().Answer(&x.Request, &x.Response)
	if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil || !s.Finish() {
		t.Error(err)
	}
	if got := conn.out.String(); !strings.HasSuffix(got, "Content-Length: 96\r\n\r\n") {
		t.Errorf("HEAD: %q", got)
	}
	conn = &memConn{in: []byte("GET / HTTP/1.1\nHost: a\n\n")}
	s = codec.Server(conn)
	err := s.ReadRequest(&x.Request)
	var bad *exchange.MalformedError
	if !errors.As(err, &bad) {
		t.Fatal(err)
	}
	bad.Refusal().Answer(&x.Request, &x.Response)
	if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil || s.Finish() {
		t.Error(err)
	}
	if got := conn.out.String(); !strings.HasPrefix(got, "HTTP/1.1 400 Bad Request\r\n") || !strings.Contains(got, "X-Sallyport-Reason: malformed_request\r\n") || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("malformed: %q", got)
	}
}

// A refusal that comes when the request has been sent still finds the ids.
func TestRefusalRewindsJSONRPC(t *testing.T) {
	rpc := `{"jsonrpc":"2.0","id":7,"method":"tools/call"}`
	for _, body := range []string{
		"Content-Length: 46\r\n\r\n" + rpc,
		"Transfer-Encoding: chunked\r\n\r\n2e\r\n" + rpc + "\r\n0\r\n\r\n",
	} {
		var codec Codec
		conn := &memConn{in: []byte("POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + body)}
		s, c := codec.Server(conn), codec.Client(&memConn{})
		var x exchange.Exchange
		if err := s.ReadRequest(&x.Request); err != nil {
			t.Fatal(err)
		}
		if err := c.RoundTrip(&x.Request, &x.Response, exchange.Options{}); err == nil {
			t.Fatal("no error")
		}
		c.Finish(&x.Request)
		refusal().Answer(&x.Request, &x.Response)
		if _, err := s.WriteResponse(&x.Request, &x.Response); err != nil || !s.Finish() {
			t.Error(err)
		}
		if got := conn.out.String(); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, `"id":7,"error":{"code":-32001`) {
			t.Errorf("got %q", got)
		}
	}
}
