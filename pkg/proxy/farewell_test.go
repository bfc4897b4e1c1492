package proxy

import (
	"context"
	"errors"
	"io"
	"testing"

	"sallyport/pkg/exchange"
)

// A cutBody gives its text and is cut then.
type cutBody struct {
	exchange.Body
	text string
}

func (b *cutBody) Read(p []byte) (int, error) {
	n := copy(p, b.text)
	b.text = b.text[n:]
	if n == 0 {
		return 0, errCut
	}
	return n, nil
}

var errCut = errors.New("cut")

// TestEventsEnd: an event stream ends cleanly behind an event when the time to
// drain is over, and in no other case.
func TestEventsEnd(t *testing.T) {
	for _, test := range []struct {
		name, text string
		over       bool
		want       error
	}{
		{"behind an event", "data: 1\n\n", true, nil},
		{"behind an event with CRLF", "data: 1\r\n\r\n", true, nil},
		{"before the first event", "", true, nil},
		{"within an event", "data: 1\n\ndata: 2\n", true, errCut},
		{"within a line", "data: 1\n\ndata", true, errCut},
		{"cut by the upstream", "data: 1\n\n", false, errCut},
	} {
		p := &Proxy{}
		p.hard, p.kill = context.WithCancel(context.Background())
		if test.over {
			p.kill()
		}
		resp := &exchange.Response{Length: exchange.UnknownLength, Body: &cutBody{text: test.text}}
		resp.Header.Add("Content-Type", "Text/Event-Stream; charset=utf-8")
		k := &call{c: &conn{p: p}}
		k.endEvents(resp)
		got, err := io.ReadAll(struct{ io.Reader }{resp.Body})
		if string(got) != test.text || !errors.Is(err, test.want) {
			t.Errorf("%s: %q, %v, want %v", test.name, got, err, test.want)
		}
		p.kill()
	}
	// What was compressed or has a length has an end of its own.
	for _, resp := range []*exchange.Response{
		{Length: 5, Body: &cutBody{}}, {Length: exchange.UnknownLength, Body: &cutBody{}},
	} {
		if resp.Length < 0 {
			resp.Header.Add("Content-Encoding", "gzip")
		}
		resp.Header.Add("Content-Type", "text/event-stream")
		(&call{c: &conn{p: &Proxy{}}}).endEvents(resp)
		if _, ok := resp.Body.(*events); ok {
			t.Errorf("the body of %+v may be ended", resp)
		}
	}
}
