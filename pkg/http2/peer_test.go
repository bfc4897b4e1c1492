package http2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sallyport/pkg/exchange"
)

// A peer is the other end of one of our connections, driven frame by frame.
type peer struct {
	*xhttp2.Framer
	t   testing.TB
	nc  net.Conn
	enc *hpack.Encoder
	buf bytes.Buffer
	dec *hpack.Decoder
}

func newPeer(t testing.TB, nc net.Conn) *peer {
	p := &peer{Framer: xhttp2.NewFramer(nc, nc), t: t, nc: nc}
	p.AllowIllegalReads, p.AllowIllegalWrites = true, true
	p.SetMaxReadFrameSize(1<<24 - 1)
	p.enc = hpack.NewEncoder(&p.buf)
	p.dec = hpack.NewDecoder(4096, nil)
	nc.SetDeadline(time.Now().Add(2 * time.Minute))
	return p
}

// block encodes fields given as name, value, name, value.
func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

func (p *peer) headers(id uint32, end bool, fields ...string) {
	p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

var getFields = []string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"}
var postFields = []string{":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/post"}

func (p *peer) get(id uint32, more ...string) {
	p.headers(id, true, append(getFields[:8:8], more...)...)
}
func (p *peer) post(id uint32, more ...string) {
	p.headers(id, false, append(postFields[:8:8], more...)...)
}

// frame reads the next frame that matters, as a text. SETTINGS are
// acknowledged.
func (p *peer) frame() string {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) && op.Timeout() {
				p.t.Error("timeout")
			}
			return "end"
		}
		switch f := f.(type) {
		case *xhttp2.SettingsFrame:
			if !f.IsAck() {
				p.WriteSettingsAck()
			}
		case *xhttp2.WindowUpdateFrame:
			return fmt.Sprint("window ", f.StreamID, " ", f.Increment)
		case *xhttp2.HeadersFrame:
			text := fmt.Sprint("headers ", f.StreamID)
			fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				return err.Error()
			}
			for _, h := range fields {
				text += " " + h.Name + "=" + h.Value
				if h.Sensitive {
					text += "(never indexed)"
				}
			}
			if f.StreamEnded() {
				text += " end"
			}
			return text
		case *xhttp2.DataFrame:
			text := fmt.Sprint("data ", f.StreamID, " ", len(f.Data()))
			if f.StreamEnded() {
				text += " end"
			}
			return text
		case *xhttp2.RSTStreamFrame:
			return fmt.Sprint("reset ", f.StreamID, " ", Code(f.ErrCode))
		case *xhttp2.GoAwayFrame:
			return fmt.Sprint("goaway ", f.LastStreamID, " ", Code(f.ErrCode))
		case *xhttp2.PingFrame:
			if f.IsAck() {
				return "pong"
			}
			return "ping"
		default:
			return fmt.Sprint(f.Header().Type)
		}
	}
}

// next reads the next frame other than WINDOW_UPDATE.
func (p *peer) next() string {
	for {
		if f := p.frame(); len(f) < 6 || f[:6] != "window" {
			return f
		}
	}
}

// want reads frames until one is that text, or fails at another one.
func (p *peer) want(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if got := p.next(); got != text {
			p.t.Fatalf("got %q, want %q", got, text)
		}
	}
}

// tally counts what our side did.
func tally(c *Codec) map[string]uint64 {
	m := map[string]uint64{}
	for cause, n := range c.Counters() {
		if n > 0 {
			m[cause.String()] = n
		}
	}
	return m
}

// clientPeer gives a hand-driven client of our server, which runs handle.
func clientPeer(t testing.TB, o ServerOptions, handle func(*ServerStream)) (*peer, *ServerConn, *Codec) {
	t.Helper()
	a, b := tcpPair(t)
	codec := new(Codec)
	o.Exchanges = new(exchange.Pool)
	srv := codec.Server(a, o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(context.Background(), handle)
		srv.Close()
	}()
	t.Cleanup(func() { b.Close(); <-done; checkEmpty(t, codec, &srv.c) })
	p := newPeer(t, b)
	io.WriteString(b, preface)
	p.WriteSettings()
	return p, srv, codec
}

// checkEmpty fails where a connection that ended still holds something.
func checkEmpty(t testing.TB, codec *Codec, c *conn) {
	t.Helper()
	if u := codec.Usage(); u.Held != 0 || u.Grown != 0 {
		t.Errorf("memory is still lent: %+v", u)
	}
	if len(c.streams) != 0 || c.out.b != nil || c.in.in != nil {
		t.Errorf("%d streams, output %v, input %v are still held", len(c.streams), c.out.b != nil, c.in.in != nil)
	}
}

// serverPeer gives our client and its hand-driven server, which has read the
// preface.
func serverPeer(t testing.TB, o ClientOptions, settings ...xhttp2.Setting) (*peer, *ClientConn, *Codec) {
	t.Helper()
	a, b := tcpPair(t)
	codec := new(Codec)
	cc := codec.Client(b, o)
	t.Cleanup(func() { a.Close(); cc.Close(); checkEmpty(t, codec, &cc.c) })
	p := newPeer(t, a)
	if err := p.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	if _, err := cc.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(preface))
	if _, err := io.ReadFull(a, got); err != nil || string(got) != preface {
		t.Fatalf("preface %q, %v", got, err)
	}
	return p, cc, codec
}

// reply answers with a status and a text.
func reply(s *ServerStream, status int, text string) (int64, error) {
	x := s.Exchange()
	x.Response.Reset()
	x.Response.Status, x.Response.Length, x.Response.Body = status, int64(len(text)), exchange.NewBytes([]byte(text))
	return s.WriteResponse(&x.Request, &x.Response)
}

// strict is a handler that reads the request whole and answers 200, or refuses
// a malformed one.
func strict(s *ServerStream) {
	if bad := s.Malformed(); bad != nil {
		reply(s, bad.Status, bad.Text)
		return
	}
	x := s.Exchange()
	if x.Request.Body != nil {
		if _, err := exchange.ReadAll(x.Request.Body, 1<<20); err != nil {
			return
		}
	}
	reply(s, 200, "")
}
