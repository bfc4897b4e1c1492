package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"sallyport/pkg/audit"
)

// switching is an upstream that switches to whatever is offered, says hello,
// gives what it got on the channel and echoes it.
func switching(t *testing.T, g *gate, hello string) (*site, <-chan string) {
	t.Helper()
	got := make(chan string, 64)
	return g.raw("api.example.com", "127.0.0.1:0", func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+req.Header.Get("Upgrade")+"\r\n\r\n"+hello)
		b := make([]byte, 4<<10)
		for {
			n, err := br.Read(b)
			if n > 0 {
				got <- string(b[:n])
				c.Write(b[:n])
			}
			if err != nil {
				close(got)
				return
			}
		}
	}), got
}

// switched connects and switches.
func switched(t *testing.T, g *gate, s *site, protocol, early string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c := g.dial(1, s.dst())
	io.WriteString(c, "GET /up HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"+early)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != protocol {
		t.Fatalf("%v %v", resp, err)
	}
	return c, br
}

const (
	clientHello = "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58" // RFC 6455 section 5.7
	clientClose = "\x88\x82\x00\x00\x00\x00\x03\xe9"             // 1001
	serverHello = "\x81\x05Hello"
)

func TestWebSocketIsCounted(t *testing.T) {
	g := newGate(t, rules, nil)
	s, _ := switching(t, g, serverHello)
	c, br := switched(t, g, s, "WebSocket", clientHello)
	open := g.event(audit.WebSocketOpen, 1)
	if open.Verdict != "allow" || open.Rule != "api" || open.HTTP.Status != 101 || open.HTTP.Path != "/up" || open.Flow != 1 || open.Upstream.Target == "" {
		t.Errorf("%+v", open)
	}
	if n := len(g.log.all(audit.Exchange)); n != 0 {
		t.Errorf("%d exchanges ended", n)
	}
	sent := clientHello + "\x82\x80\x01\x02\x03\x04" + clientClose
	io.WriteString(c, sent[len(clientHello):])
	c.(interface{ CloseWrite() error }).CloseWrite()
	if b, err := io.ReadAll(br); string(b) != serverHello+sent || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	e := g.event(audit.Exchange, 1)
	if e.HTTP.Status != 101 || e.HTTP.RequestBytes != int64(len(sent)) || e.HTTP.ResponseBytes != int64(len(serverHello+sent)) {
		t.Errorf("%+v", e.HTTP)
	}
	// What the server echoes is masked, which the counting of it does not mind.
	if want := (audit.WebSocket{MessagesSent: 2, MessagesReceived: 3, CloseCode: 1001}); e.WebSocket != want {
		t.Errorf("%+v", e.WebSocket)
	}
	if e.ID == open.ID && e.ID != "" || !e.Time.Before(open.Time) {
		t.Errorf("%+v %+v", open, e)
	}
	if e := g.event(audit.FlowClose, 1); e.WebSocket != (audit.WebSocket{}) {
		t.Errorf("%+v", e)
	}
}

// A switch is no way to have requests forwarded that nobody judges: what the
// client says behind it reaches the upstream only if it is neither HTTP nor TLS.
func TestNothingHidesBehindASwitch(t *testing.T) {
	for _, tt := range []struct {
		name, protocol, sent string
		refused              string
	}{
		{"HTTP", "tcp", "GET /forbidden/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "HTTP"},
		{"HTTP after empty lines", "tcp", "\r\n\r\nGET /forbidden/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "HTTP"},
		{"HTTP of an unknown method", "tcp", "FETCH /forbidden/x http/1.1\r\n\r\n", "HTTP"},
		{"HTTP/0.9", "tcp", "GET /forbidden/x\r\n", "HTTP"},
		{"a part of a request line", "tcp", "GET /forb", "HTTP"},
		{"HTTP/2", "tcp", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"},
		{"TLS", "tcp", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "TLS"},
		{"HTTP as WebSocket", "websocket", "GET /forbidden/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "WebSocket"},
		{"HTTP whose first byte opens a frame", "websocket", "ACL /forbidden/x HTTP/1.1\r\n\r\n", "WebSocket"},
		{"HTTP/2 as WebSocket", "websocket", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "WebSocket"},
		{"TLS as WebSocket", "websocket", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "WebSocket"},
		{"frame without a mask", "websocket", serverHello, "WebSocket"},
		{"WebSocket", "websocket", clientHello, ""},
		{"bytes", "tcp", "\x00\x01\x02", ""},
		{"text", "irc/6.9", "NICK someone\r\nUSER x\r\n", ""},
		{"nothing", "tcp", "", ""},
	} {
		for _, together := range []bool{false, true} {
			g := newGate(t, rules, nil)
			s, got := switching(t, g, "")
			early := ""
			if together {
				early = tt.sent
			}
			c, br := switched(t, g, s, tt.protocol, early)
			if !together {
				for i := range len(tt.sent) {
					io.WriteString(c, tt.sent[i:i+1])
				}
			}
			c.(interface{ CloseWrite() error }).CloseWrite()
			answer, _ := io.ReadAll(br)
			var seen strings.Builder
			for part := range got {
				seen.WriteString(part)
			}
			e := g.event(audit.Exchange, 1)
			if tt.refused == "" {
				if seen.String() != tt.sent || string(answer) != tt.sent || e.Verdict != "allow" {
					t.Errorf("%s: the upstream got %q, the client %q: %+v", tt.name, &seen, answer, e)
				}
				continue
			}
			// One byte of what claims to be WebSocket may open a frame.
			if seen.Len() > 1 || seen.Len() == 1 && tt.protocol != "websocket" {
				t.Errorf("%s (together: %v): the upstream got %q", tt.name, together, &seen)
			}
			if e.Verdict != "deny" || e.Reason != "protocol_denied" || !strings.Contains(e.Message, tt.refused) {
				t.Errorf("%s: %+v", tt.name, e)
			}
		}
	}
}

// The server of a protocol without a parser may speak first.
func TestServerSpeaksFirstBehindASwitch(t *testing.T) {
	g := newGate(t, rules, nil)
	s, _ := switching(t, g, "220 hello\r\n")
	_, br := switched(t, g, s, "tcp", "")
	if line, err := br.ReadString('\n'); line != "220 hello\r\n" || err != nil {
		t.Errorf("%q %v", line, err)
	}
}
