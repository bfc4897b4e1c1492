package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/http2"
)

// echoing serves streams of HTTP/2 that answer every extended CONNECT with 200
// and what they get.
func (g *gate) echoing(host string, extended bool) *site {
	g.t.Helper()
	cert, err := g.internet.leaf(host, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	ln, s := g.listen("127.0.0.1:0")
	var codec http2.Codec
	var pool exchange.Pool
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"}})
				if t.Handshake() != nil {
					return
				}
				sc := codec.Server(t, http2.ServerOptions{Exchanges: &pool, ExtendedConnect: extended})
				sc.Serve(context.Background(), func(st *http2.ServerStream) {
					s.reqs.Add(1)
					x := st.Exchange()
					x.Response.Reset()
					x.Response.Status, x.Response.Length = 200, exchange.UnknownLength
					x.Response.Header.Add("x-seen", x.Request.Method+" "+x.Request.Upgrade+" "+x.Request.Path)
					x.Response.Body = x.Request.Body
					st.WriteResponse(&x.Request, &x.Response)
				})
				sc.Close()
			}()
		}
	}()
	g.t.Cleanup(func() { ln.Close() })
	g.know(host, s.addr.Addr())
	return s
}

// extendedConnect opens a stream with the protocol by way of the gate; what is
// written to the pipe goes out on it.
func (g *gate) extendedConnect(s *site, host, path, protocol string) (resp *exchange.Response, out net.Conn, settings http2.PeerSettings, err error) {
	g.t.Helper()
	c, err := g.dialTLS(1, s.dst(), host, "h2")
	if err != nil {
		g.t.Fatal(err)
	}
	var codec http2.Codec
	cc := codec.Client(c, http2.ClientOptions{})
	g.t.Cleanup(func() { cc.Close() })
	if settings, err = cc.Start(g.t.Context()); err != nil {
		return nil, nil, settings, err
	}
	st, err := cc.Open()
	if err != nil {
		return nil, nil, settings, err
	}
	ours, theirs := net.Pipe()
	x := new(exchange.Exchange)
	x.Request = exchange.Request{
		Version: exchange.HTTP2, Method: "CONNECT", Upgrade: protocol, Scheme: "https", Authority: host, Path: path,
		Body: &piped{Conn: theirs}, Length: exchange.UnknownLength,
	}
	g.t.Cleanup(func() { ours.Close(); st.Finish(&x.Request) })
	return &x.Response, ours, settings, st.RoundTrip(&x.Request, &x.Response, exchange.Options{})
}

// piped is a body that comes out of a pipe.
type piped struct{ net.Conn }

func (p *piped) Buffered() ([]byte, bool) { return nil, false }
func (p *piped) Discard(int)              {}
func (p *piped) Rewind() bool             { return false }
func (p *piped) Interrupt()               { p.Conn.Close() }
func (p *piped) Complete() bool           { return false }
func (p *piped) Transferred() int64       { return 0 }

func TestWebSocketOverHTTP2(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.echoing("api.example.com", true)
	resp, out, settings, err := g.extendedConnect(s, "api.example.com", "/chat", "websocket")
	if err != nil || resp.Status != 200 || resp.Header.Get("x-seen") != "CONNECT websocket /chat" || !settings.ExtendedConnect {
		t.Fatalf("%v %+v %+v", err, resp, settings)
	}
	if e := g.event(audit.WebSocketOpen, 1); e.HTTP.Path != "/chat" || e.Verdict != "allow" {
		t.Errorf("%+v", e)
	}
	const hello = "\x81\x85\x00\x00\x00\x00hello"
	for range 3 {
		if _, err := io.WriteString(out, hello); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(hello))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != hello {
			t.Fatalf("%q %v", got, err)
		}
	}
	io.WriteString(out, "\x88\x82\x00\x00\x00\x00\x03\xe8")
	out.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 8 {
		t.Errorf("%q %v", rest, err)
	}
	e := g.event(audit.Exchange, 1)
	if e.WebSocket.MessagesSent != 3 || e.WebSocket.MessagesReceived != 3 || e.WebSocket.CloseCode != 1000 ||
		e.HTTP.RequestBytes != int64(3*len(hello)+8) || e.HTTP.ResponseBytes != e.HTTP.RequestBytes || e.HTTP.Method != "CONNECT" {
		t.Errorf("%+v", e)
	}
}

// An extended CONNECT stands for the GET that opens a WebSocket elsewhere: what
// is denied to that is denied to it.
func TestExtendedConnectIsJudgedAsGET(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.echoing("api.example.com", true)
	for path, want := range map[string]struct{ protocol, reason string }{
		"/admin/ws": {"websocket", "rule_denied"},
		"/udp":      {"connect-udp", "protocol_denied"},
		"/ip":       {"connect-ip", "protocol_denied"},
	} {
		resp, _, _, err := g.extendedConnect(s, "api.example.com", path, want.protocol)
		if err != nil || resp.Status != 403 || resp.Header.Get("X-Sallyport-Reason") != want.reason {
			t.Errorf("%s: %v %+v", path, err, resp)
		}
	}
	if s.reqs.Load() != 0 {
		t.Error("the upstream was reached")
	}
}

// What is not taken by the upstream is not offered to the client, and refused
// where it comes all the same.
func TestExtendedConnectIsMirrored(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.echoing("api.example.com", false)
	resp, _, settings, err := g.extendedConnect(s, "api.example.com", "/chat", "websocket")
	if settings.ExtendedConnect {
		t.Error("offered")
	}
	if err == nil && resp.Status == 200 {
		t.Errorf("%+v", resp)
	}
	if s.reqs.Load() != 0 {
		t.Error("the upstream was reached")
	}
}

// What is not made of frames is nothing that anybody here can follow.
func TestWebSocketWithoutFrames(t *testing.T) {
	g := newGate(t, http2Rules, nil)
	s := g.echoing("api.example.com", true)
	resp, out, _, err := g.extendedConnect(s, "api.example.com", "/chat", "websocket")
	if err != nil || resp.Status != 200 {
		t.Fatalf("%v %+v", err, resp)
	}
	go io.WriteString(out, "GET /admin/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); err == nil || len(rest) != 0 {
		t.Errorf("%q %v", rest, err)
	}
	if e := g.event(audit.Exchange, 1); e.Verdict != "deny" || e.Reason != "protocol_denied" || !strings.Contains(e.Message, "no WebSocket") {
		t.Errorf("%+v", e)
	}
}
