package proxy

import (
	"io"
	"strings"

	"sallyport/pkg/exchange"
	"sallyport/pkg/websocket"
)

// What has no end of its own is ended by us when the time to drain is over. Where
// its protocol has a way to say so at the place that it has come to, that is said,
// and the client knows that it may connect again; everywhere else the connection
// is cut, so that nobody takes a part for the whole.

// events is the body of an event stream: it may end behind each event, and a
// client drops one that is not whole (HTML, section 9.2.6).
type events struct {
	exchange.Body
	p *Proxy
	// tail are the last bytes that passed.
	tail [4]byte
}

// endEvents lets the response end cleanly when the time to drain is over, if it is
// an event stream in the clear.
func (k *call) endEvents(resp *exchange.Response) {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if resp.Body == nil || resp.Length >= 0 || !exchange.EqualFold(strings.TrimSpace(kind), "text/event-stream") || resp.Header.Has("Content-Encoding") {
		return
	}
	resp.Body = &events{Body: resp.Body, p: k.c.p, tail: [4]byte{'\n', '\n', '\n', '\n'}}
}

// Read implements exchange.Body.
func (e *events) Read(p []byte) (int, error) {
	n, err := e.Body.Read(p)
	for _, b := range p[max(0, n-len(e.tail)):n] {
		copy(e.tail[:], e.tail[1:])
		e.tail[3] = b
	}
	if err != nil && err != io.EOF && e.p.hard.Err() != nil && e.between() {
		err = io.EOF
	}
	return n, err
}

// between reports whether an event ends here: with an empty line.
func (e *events) between() bool {
	t := string(e.tail[:])
	return strings.HasSuffix(t, "\n\n") || strings.HasSuffix(t, "\r\r") || t == "\r\n\r\n"
}

// Buffered implements exchange.Body: all goes through Read.
func (e *events) Buffered() ([]byte, bool) { return nil, false }

// Discard implements exchange.Body.
func (e *events) Discard(int) {}

// Rewind implements exchange.Body: nobody sends a response twice.
func (e *events) Rewind() bool { return false }

// goodbye ends a WebSocket towards the client, where that can be said: the time to
// drain is over, and no frame is open.
func (c *conn) goodbye(client io.Writer) bool {
	w, ok := client.(*watched)
	if !ok || w.frames == nil || c.p.hard.Err() == nil || !w.frames.Received.Between() {
		return false
	}
	_, err := w.Write([]byte(websocket.Going))
	return err == nil && closeWrite(w) == nil
}
