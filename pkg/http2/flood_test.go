package http2

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"sallyport/pkg/exchange"
)

// TestServerFloods attacks our server and looks at whether and why it ends the
// connection.
func TestServerFloods(t *testing.T) {
	open := func(p *peer) { p.post(1, "x-wait", "1") }
	for _, c := range []struct {
		name  string
		start func(p *peer)
		send  func(p *peer, i int)
		n     int
		cause string // "" is that the connection stands
	}{
		{"rapid reset", nil, func(p *peer, i int) {
			p.get(uint32(2*i + 1))
			p.WriteRSTStream(uint32(2*i+1), xhttp2.ErrCodeCancel)
		}, 1000, "rapid_reset"},
		{"some cancelled calls", nil, func(p *peer, i int) {
			p.get(uint32(2*i+1), "x-wait", "1")
			p.WriteRSTStream(uint32(2*i+1), xhttp2.ErrCodeCancel)
		}, 200, ""},
		{"resets that we are made to send, by WINDOW_UPDATE", nil, func(p *peer, i int) {
			p.get(uint32(2*i+1), "x-wait", "1")
			p.WriteWindowUpdate(uint32(2*i+1), 0)
		}, 1000, "rapid_reset"},
		{"resets that we are made to send, by DATA behind the end", nil, func(p *peer, i int) {
			p.get(uint32(2*i+1), "x-wait", "1")
			p.WriteData(uint32(2*i+1), true, nil)
		}, 1000, "rapid_reset"},
		{"resets that we are made to send, by too much content", nil, func(p *peer, i int) {
			p.post(uint32(2*i+1), "x-wait", "1", "content-length", "1")
			p.WriteData(uint32(2*i+1), true, []byte("ab"))
		}, 1000, "rapid_reset"},
		{"streams over the limit", nil, func(p *peer, i int) { p.get(uint32(2*i+1), "x-wait", "1") }, 1000, "rapid_reset"},
		{"SETTINGS", nil, func(p *peer, i int) { p.WriteSettings(xhttp2.Setting{ID: 4, Val: uint32(i)}) }, 500, "settings_flood"},
		{"PING", nil, func(p *peer, i int) { p.WritePing(false, [8]byte{}) }, 3000, "ping_flood"},
		{"PING beside content", open, func(p *peer, i int) {
			p.WriteData(1, false, []byte("x"))
			p.WritePing(false, [8]byte{})
		}, 3000, ""},
		{"empty DATA", open, func(p *peer, i int) { p.WriteData(1, false, nil) }, 2000, "empty_frames"},
		{"padding without content", open, func(p *peer, i int) { p.WriteDataPadded(1, false, nil, make([]byte, 200)) }, 2000, "empty_frames"},
		{"PRIORITY", nil, func(p *peer, i int) { p.WritePriority(uint32(2*i+1), xhttp2.PriorityParam{StreamDep: 9}) }, 10000, "useless_frames"},
		{"unknown frames", nil, func(p *peer, i int) { p.WriteRawFrame(0x77, 0, 0, nil) }, 10000, "useless_frames"},
		{"acknowledgements of SETTINGS", nil, func(p *peer, i int) { p.WriteSettingsAck() }, 10000, "useless_frames"},
		{"acknowledgements of PING", nil, func(p *peer, i int) { p.WritePing(true, [8]byte{}) }, 10000, "useless_frames"},
		{"RST_STREAM of one stream", func(p *peer) { p.get(1) }, func(p *peer, i int) { p.WriteRSTStream(1, 0) }, 10000, "useless_frames"},
		{"WINDOW_UPDATE", nil, func(p *peer, i int) { p.WriteWindowUpdate(0, 1) }, 30000, "window_update_flood"},
		{"CONTINUATION", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...)})
		}, func(p *peer, i int) { p.WriteContinuation(1, false, nil) }, 100, "continuation_flood"},
		{"CONTINUATION with fields", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...)})
		}, func(p *peer, i int) { p.WriteContinuation(1, false, []byte(strings.Repeat("\x82", 16384))) }, 100, "continuation_flood"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var running, most atomic.Int64
			p, _, codec := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
				if n := running.Add(1); n > most.Load() {
					most.Store(n)
				}
				defer running.Add(-1)
				if s.Exchange().Request.Header.Has("x-wait") {
					gone := make(chan struct{})
					s.OnCancel(func() { close(gone) })
					<-gone
					return
				}
				strict(s)
			})
			if c.start != nil {
				c.start(p)
			}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for i := range c.n {
					c.send(p, i)
				}
				p.WritePing(false, [8]byte{0xff})
			}()
			last := ""
			for {
				f, err := p.ReadFrame()
				if err != nil {
					last = "end"
					break
				}
				if g, ok := f.(*xhttp2.GoAwayFrame); ok {
					last = fmt.Sprint("goaway ", Code(g.ErrCode))
					break
				}
				if g, ok := f.(*xhttp2.PingFrame); ok && g.Data[0] == 0xff {
					last = "stands"
					break
				}
			}
			p.nc.Close()
			<-sent
			switch {
			case c.cause == "" && (last != "stands" || len(tally(codec)) > 0):
				t.Errorf("%s, %v", last, tally(codec))
			case c.cause != "" && (last == "stands" || tally(codec)[c.cause] != 1):
				t.Errorf("%s, %v", last, tally(codec))
			}
			if most.Load() > 2*defaultMaxStreams {
				t.Errorf("%d handlers ran at a time", most.Load())
			}
		})
	}
}

// TestResetsBesideService resets half of the streams and lets the others be
// served: who is served as fast as it resets goes on.
func TestResetsBesideService(t *testing.T) {
	p, srv, codec := clientPeer(t, ServerOptions{}, strict)
	go io.Copy(io.Discard, p.nc)
	for i := range 3000 {
		p.get(uint32(4*i + 1))
		p.get(uint32(4*i + 3))
		if i%2 == 0 {
			p.WriteRSTStream(uint32(4*i+3), xhttp2.ErrCodeCancel)
		}
		if i%40 == 0 {
			// No more are open at a time than is allowed.
			waitFor(t, func() bool {
				srv.c.mu.Lock()
				defer srv.c.mu.Unlock()
				return srv.c.lastID >= uint32(4*i+3) && srv.running == 0
			})
		}
	}
	if tally(codec)["rapid_reset"] != 0 {
		t.Error(tally(codec))
	}
}

// TestUnreadAnswers floods without reading: what is answered must not pile up.
func TestUnreadAnswers(t *testing.T) {
	p, srv, codec := clientPeer(t, ServerOptions{}, strict)
	// Smaller ones make the kernel drop segments whose acknowledgements are needed.
	p.nc.(*net.TCPConn).SetReadBuffer(64 << 10)
	srv.c.nc.(*net.TCPConn).SetWriteBuffer(64 << 10)
	p.nc.SetWriteDeadline(time.Now().Add(2 * time.Minute))
	for i := 0; ; i++ {
		// Content earns PINGs, so that only the queue is the limit.
		id := uint32(2*i + 1)
		p.get(id)
		if err := p.WritePing(false, [8]byte{}); err != nil {
			break
		}
		srv.c.mu.Lock()
		n, ended := len(srv.c.out.b), srv.c.err != nil
		srv.c.mu.Unlock()
		if ended {
			break
		}
		if n > 1<<20 {
			t.Fatalf("%d bytes are pending", n)
		}
		if i > 1000000 {
			t.Fatal("it goes on")
		}
	}
	var total uint64
	for _, n := range tally(codec) {
		total += n
	}
	if total != 1 {
		t.Error(tally(codec))
	}
}

// TestClientFloods attacks our client.
func TestClientFloods(t *testing.T) {
	for _, c := range []struct {
		name  string
		send  func(p *peer, i int)
		n     int
		cause string // "" is that nothing is held against the server
	}{
		{"PING", func(p *peer, i int) { p.WritePing(false, [8]byte{}) }, 3000, "ping_flood"},
		{"SETTINGS", func(p *peer, i int) { p.WriteSettings() }, 500, "settings_flood"},
		{"HEADERS on closed streams", func(p *peer, i int) { p.status(1, true, "200") }, 1000, ""},
		{"GOAWAY", func(p *peer, i int) { p.WriteGoAway(1, 0, nil) }, 10000, "useless_frames"},
		{"CONTINUATION", func(p *peer, i int) {
			if i == 0 {
				p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":status", "200")})
			}
			p.WriteContinuation(1, false, nil)
		}, 100, "continuation_flood"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, cc, codec := serverPeer(t, ClientOptions{})
			s, _ := cc.Open()
			req := request("GET", nil, 0)
			done := make(chan struct{})
			go func() {
				defer close(done)
				var x result
				s.RoundTrip(req, &x.resp, exchange.Options{})
				if x.resp.Body != nil {
					io.Copy(io.Discard, x.resp.Body)
				}
				s.Finish(req)
			}()
			waitFor(t, func() bool {
				cc.c.mu.Lock()
				defer cc.c.mu.Unlock()
				return cc.c.lastID == 1
			})
			go io.Copy(io.Discard, p.nc)
			for i := range c.n {
				c.send(p, i)
			}
			if c.cause == "" {
				p.nc.Close()
			}
			select {
			case <-cc.done:
			case <-time.After(30 * time.Second):
				t.Fatal("the connection stands")
			}
			<-done
			if got := tally(codec); c.cause != "" && got[c.cause] != 1 || c.cause == "" && len(got) != 0 {
				t.Error(got)
			}
		})
	}
}

// TestPingsBesideContent: gRPC measures the path by a PING for each burst that it
// receives, however long a stream of small messages is.
func TestPingsBesideContent(t *testing.T) {
	const pieces = 4000
	p, _, codec := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
		x := s.Exchange()
		x.Response.Reset()
		x.Response.Status, x.Response.Length, x.Response.Body = 200, exchange.UnknownLength, x.Request.Body
		s.WriteResponse(&x.Request, &x.Response)
	})
	p.headers(1, false, postFields...)
	for i := range pieces {
		p.WriteData(1, false, []byte("x"))
		for got := ""; got != "data 1 1"; {
			if got = p.next(); got == "end" {
				t.Fatalf("ended after %d messages: %v", i, tally(codec))
			}
		}
		// One for what was sent, one for what came back.
		p.WritePing(false, [8]byte{})
		p.WritePing(false, [8]byte{1})
	}
	if len(tally(codec)) != 0 {
		t.Error(tally(codec))
	}
}
