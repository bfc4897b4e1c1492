package proxy

import (
	"io"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/websocket"
)

// A followed body is one direction of a WebSocket over HTTP/2 (RFC 8441): its
// bytes pass untouched, and see takes note of them. Where see reports that they
// are no frames, the body fails before any of them is given.
type followed struct {
	exchange.Body
	see  func([]byte) bool
	lost bool
	// going says whether the WebSocket may be ended here; nil: never. said is set
	// when it was.
	going func() bool
	said  bool
}

// Read implements exchange.Body.
func (f *followed) Read(p []byte) (int, error) {
	if f.lost {
		return 0, errNoFrames
	}
	if f.said {
		return 0, io.EOF
	}
	n, err := f.Body.Read(p)
	if n == 0 && err != nil && err != io.EOF && f.going != nil && f.going() && len(p) >= len(websocket.Going) {
		n, err, f.said = copy(p, websocket.Going), nil, true
	}
	if !f.see(p[:n]) {
		f.lost = true
		return 0, errNoFrames
	}
	return n, err
}

// Buffered implements exchange.Body: all goes through Read.
func (f *followed) Buffered() ([]byte, bool) { return nil, false }

// Discard implements exchange.Body.
func (f *followed) Discard(int) {}

// Rewind implements exchange.Body: what was seen was counted.
func (f *followed) Rewind() bool { return false }

// A webSocketStream is a WebSocket over HTTP/2 while it is open.
type webSocketStream struct {
	frames   websocket.Session
	sent     followed
	received followed
}

// follow puts counters around what an extended CONNECT sends.
func (k *call) follow() *webSocketStream {
	ws := new(webSocketStream)
	ws.sent = followed{Body: k.x.Request.Body, see: ws.frames.FromClient}
	ws.received.see = func(p []byte) bool {
		ws.frames.FromServer(p)
		return true
	}
	if ws.sent.Body != nil {
		k.x.Request.Body = &ws.sent
	}
	return ws
}

// opened goes on with a response that accepted the WebSocket.
func (ws *webSocketStream) opened(k *call, d policy.Decision) {
	p := k.c.p
	ws.received.going = func() bool { return p.hard.Err() != nil && ws.frames.Received.Between() }
	if ws.received.Body = k.x.Response.Body; ws.received.Body != nil {
		k.x.Response.Body = &ws.received
	}
	k.openWebSocket(d)
}

// closed puts what passed into the event. It gives the decision and message
// with which the exchange ends.
func (ws *webSocketStream) closed(k *call, d policy.Decision, message string) (policy.Decision, string) {
	k.passed(&ws.frames)
	if ws.sent.lost {
		d.Verdict, d.Reason = policy.Deny, policy.ProtocolDenied
		return d, errNoFrames.Error()
	}
	return d, message
}
