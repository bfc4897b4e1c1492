package proxy

import (
	"errors"
	"net"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/sniff"
	"sallyport/pkg/websocket"
)

// webSocket is the one protocol whose frames are followed (RFC 6455 section
// 11.2).
const webSocket = "websocket"

// upgrade passes a 101 on; from then on the connection belongs to the protocol
// that both sides agreed on.
func (k *call) upgrade(car *carrier, d policy.Decision) after {
	c, req := k.c, &k.x.Request
	protocol := k.x.Response.Upgrade
	_, err := k.http1.WriteResponse(req, &k.x.Response)
	if err != nil {
		car.finish(req)
		k.use(nil)
		car.drop()
		k.end(d, cut(err, nil))
		return nil
	}
	client, rest := k.http1.Detach()
	car.finish(req)
	u := car.u
	_, early := car.h1.Detach()
	// The event is written at the end, when the exchange's memory is with
	// someone else: only what the event needs is kept.
	method, found := req.Method, ""
	if k.stages != nil {
		found = k.settle(&d, "")
	}
	return func(*hop) {
		c.tunnelled.Store(true)
		w := watched{Conn: replayed(client, rest), p: c.p}
		if exchange.EqualFold(protocol, webSocket) {
			w.frames = new(websocket.Session)
			k.openWebSocket(d)
		}
		sent, received := c.relay(&w, u, early)
		c.use(nil)
		u.Close()
		k.ev.HTTP.RequestBytes, k.ev.HTTP.ResponseBytes = sent, received
		message := found
		if w.refused != nil {
			d.Verdict, d.Reason, message = policy.Deny, policy.ProtocolDenied, joined(found, w.refused.Error())
		}
		if w.frames != nil {
			k.passed(w.frames)
		}
		k.endMethod(method, d, message)
	}
}

// openWebSocket writes the event of a WebSocket that begins; the exchange's own
// follows at its end.
func (k *call) openWebSocket(d policy.Decision) {
	e := k.ev
	begun, spent := e.Time, e.Duration
	e.Time, e.ID, e.Kind, e.Message = time.Now(), "", audit.WebSocketOpen, ""
	e.Duration = audit.Duration{}
	judged(e, &d)
	k.c.p.Audit.Record(e)
	e.Time, e.Duration = begun, spent
}

// passed puts what a WebSocket has carried into the event.
func (k *call) passed(frames *websocket.Session) {
	k.ev.WebSocket = audit.WebSocket{
		MessagesSent: frames.Sent.Messages(), MessagesReceived: frames.Received.Messages(), CloseCode: frames.CloseCode(),
	}
}

var (
	errHiddenHTTP = errors.New("what the workload sent after the switch is HTTP, whose requests nobody would judge")
	errHiddenTLS  = errors.New("what the workload sent after the switch is TLS, inside of which nobody would see")
	errNoFrames   = errors.New("what the workload sent after the switch to WebSocket is no WebSocket")
)

// watched is the workload's side of a connection on which HTTP has ended. Its
// bytes pass untouched, unless the first ones show that the switch was a way to
// have requests forwarded that nobody judges: then Read fails before any of
// them is given.
type watched struct {
	net.Conn
	p *Proxy
	// in is what is read: Conn, with what was looked at before it.
	in net.Conn
	// frames follows a WebSocket; nil for every other protocol.
	frames  *websocket.Session
	refused error
}

// Read gives what the client sends, for the upstream.
func (w *watched) Read(p []byte) (int, error) {
	if w.refused != nil {
		return 0, w.refused
	}
	if w.in == nil {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	n, err := w.in.Read(p)
	if w.frames != nil && !w.frames.FromClient(p[:n]) {
		w.refused = errNoFrames
		return 0, w.refused
	}
	return n, err
}

// begin judges the first bytes of a protocol that has no parser here. Text that
// could still become a request is held until it is a line or cannot be one any
// more; the server may speak meanwhile.
func (w *watched) begin() error {
	if w.frames != nil {
		w.in = w.Conn
		return nil
	}
	sc, result, err := w.p.sniffer.Sniff(w.Conn, nil, 0)
	if err != nil {
		return err
	}
	w.in = sc
	switch result.Protocol {
	case sniff.TLS:
		w.refused = errHiddenTLS
	case sniff.HTTP1, sniff.HTTP2:
		w.refused = errHiddenHTTP
	}
	return w.refused
}

// Write gives the client what the upstream sent.
func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if w.frames != nil {
		w.frames.FromServer(p[:n])
	}
	return n, err
}

// replayed puts bytes that were read already before the rest of a connection.
func replayed(conn net.Conn, prefix []byte) net.Conn {
	if len(prefix) == 0 {
		return conn
	}
	return sniff.Replay(conn, prefix)
}
