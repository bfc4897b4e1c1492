package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"sallyport/pkg/exchange"
)

// respond gives a handler that answers 200 with body.
func respond(body func() exchange.Body, errs chan<- error) func(*ServerStream) {
	return func(s *ServerStream) {
		x := s.Exchange()
		x.Response.Status, x.Response.Length, x.Response.Body = 200, exchange.UnknownLength, body()
		_, err := s.WriteResponse(&x.Request, &x.Response)
		errs <- err
	}
}

func bytesOf(n int) func() exchange.Body {
	return func() exchange.Body { return exchange.NewBytes(make([]byte, n)) }
}

// sync waits until our side has acted on all that was sent.
func (p *peer) sync() {
	p.t.Helper()
	p.WritePing(false, [8]byte{9})
	p.want("pong")
}

func TestSendWindows(t *testing.T) {
	t.Run("stream", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, _ := clientPeer(t, ServerOptions{}, respond(bytesOf(30), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 10})
		p.get(1)
		p.want("headers 1 :status=200", "data 1 10")
		p.sync() // and nothing more
		p.WriteWindowUpdate(1, 1)
		p.want("data 1 1")
		p.sync()
		p.WriteWindowUpdate(1, 100)
		p.want("data 1 19 end")
		if err := <-errs; err != nil {
			t.Error(err)
		}
	})
	t.Run("initial window of 0", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, _ := clientPeer(t, ServerOptions{}, respond(bytesOf(3), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
		p.get(1)
		p.want("headers 1 :status=200")
		p.sync()
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 2})
		p.want("data 1 2")
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 3})
		p.want("data 1 1 end")
	})
	t.Run("negative", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, _ := clientPeer(t, ServerOptions{}, respond(bytesOf(40), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 20})
		p.get(1)
		p.want("headers 1 :status=200", "data 1 20")
		// 20 were sent of 5: the window is -15.
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 5})
		p.WriteWindowUpdate(1, 15)
		p.sync()
		p.WriteWindowUpdate(1, 1)
		p.want("data 1 1")
		p.sync()
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 100})
		p.want("data 1 19 end")
	})
	t.Run("connection", func(t *testing.T) {
		errs := make(chan error, 3)
		p, _, _ := clientPeer(t, ServerOptions{}, respond(bytesOf(40000), errs))
		p.get(1)
		p.want("headers 1 :status=200", "data 1 16384", "data 1 16384", "data 1 7232 end")
		p.get(3)
		p.want("headers 3 :status=200", "data 3 16384", "data 3 9151")
		p.get(5)
		p.want("headers 5 :status=200")
		p.sync()
		p.WriteWindowUpdate(0, 14465+40000)
		got := map[string]bool{}
		for !got["data 3 14465 end"] || !got["data 5 7232 end"] {
			got[p.next()] = true
		}
	})
	t.Run("an empty end needs no window", func(t *testing.T) {
		errs := make(chan error, 1)
		body, w := newSlowBody()
		p, _, _ := clientPeer(t, ServerOptions{}, respond(func() exchange.Body { return body }, errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 4})
		p.get(1)
		p.want("headers 1 :status=200")
		w.Write([]byte("four"))
		p.want("data 1 4")
		w.Close()
		p.want("data 1 0 end")
	})
	t.Run("frame size", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, _ := clientPeer(t, ServerOptions{}, respond(bytesOf(20000), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxFrameSize, Val: 1 << 20})
		p.get(1)
		p.want("headers 1 :status=200", "data 1 16384", "data 1 3616 end")
	})
	t.Run("shut for too long", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, codec := clientPeer(t, ServerOptions{StallTimeout: 50 * time.Millisecond}, respond(bytesOf(40), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 20})
		p.get(1)
		p.want("headers 1 :status=200", "data 1 20", "reset 1 CANCEL")
		if err := <-errs; !errors.Is(err, ErrStalled) || tally(codec)["tiny_window"] != 1 {
			t.Error(err, tally(codec))
		}
		p.sync()
	})
	t.Run("reset while a window is shut", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, _ := clientPeer(t, ServerOptions{}, respond(bytesOf(40), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 20})
		p.get(1)
		p.want("headers 1 :status=200", "data 1 20")
		p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		var sink *exchange.SinkError
		var reset *ResetError
		if err := <-errs; !errors.As(err, &sink) || !errors.As(err, &reset) || reset.Code != Cancel || reset.Local {
			t.Error(err)
		}
		p.sync()
	})
	t.Run("opened byte by byte", func(t *testing.T) {
		errs := make(chan error, 1)
		p, _, codec := clientPeer(t, ServerOptions{}, respond(bytesOf(1<<20), errs))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1})
		p.get(1)
		p.want("headers 1 :status=200")
		f := p.next()
		for range 5000 {
			if f != "data 1 1" {
				break
			}
			p.WriteWindowUpdate(1, 1)
			f = p.next()
		}
		if f != "goaway 1 ENHANCE_YOUR_CALM" {
			t.Error(f)
		}
		if tally(codec)["tiny_window"] != 1 {
			t.Error(tally(codec))
		}
	})
}

// TestReceiveWindows looks at what our side gives back, and when.
func TestReceiveWindows(t *testing.T) {
	t.Run("nothing before it is read", func(t *testing.T) {
		read, done := make(chan int), make(chan int, 1)
		p, srv, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			b := s.Exchange().Request.Body
			n, _ := io.ReadFull(b, make([]byte, <-read))
			m, _ := io.Copy(io.Discard, b)
			done <- n + int(m)
			reply(s, 200, "")
		})
		p.post(1)
		for range 3 {
			p.WriteData(1, false, make([]byte, 16384))
		}
		p.WriteData(1, false, make([]byte, 16383))
		if f := p.frame(); f != "window 0 983041" {
			t.Error(f)
		}
		p.WritePing(false, [8]byte{})
		if f := p.frame(); f != "pong" {
			t.Errorf("%s before anything was read", f)
		}
		read <- 32767
		if f := p.frame(); f != "window 1 32767" {
			t.Error(f)
		}
		p.WriteData(1, true, make([]byte, 16384))
		p.want("headers 1 :status=200 end")
		if n := <-done; n != 65535+16384 {
			t.Error(n)
		}
		_ = srv
	})
	t.Run("grows while the reader keeps up", func(t *testing.T) {
		p, srv, codec := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			io.Copy(io.Discard, s.Exchange().Request.Body)
			reply(s, 200, "")
		})
		p.post(1)
		// A sender that is faster than the reader would look like one that it keeps up
		// with only now and then.
		allRead := func() bool {
			srv.c.mu.Lock()
			defer srv.c.mu.Unlock()
			s := srv.c.streams[1]
			return s != nil && s.body.unread == 0
		}
		window, largest := 65535, 0
		next := func() string {
			f := p.frame()
			var id, n int
			if k, _ := fmt.Sscanf(f, "window %d %d", &id, &n); k == 2 && id == 1 {
				window += n
			}
			if f == "end" {
				t.Fatal("the connection ended")
			}
			return f
		}
		for sent := 0; sent < 4<<20; {
			for window < 16384 {
				next()
			}
			largest = max(largest, window)
			p.WriteData(1, false, make([]byte, 16384))
			window -= 16384
			sent += 16384
			p.WritePing(false, [8]byte{})
			for next() != "pong" {
			}
			for end := time.Now().Add(30 * time.Second); !allRead(); time.Sleep(10 * time.Microsecond) {
				if time.Now().After(end) {
					t.Fatal("the reader does not keep up")
				}
			}
		}
		if largest < 500<<10 || largest > maxStreamWindow {
			t.Errorf("largest window %d", largest)
		}
		if codec.Usage().Grown == 0 {
			t.Error("not counted")
		}
		p.WriteData(1, true, nil)
		p.want("headers 1 :status=200 end")
		_ = srv
	})
	t.Run("unread content does not hold up other streams", func(t *testing.T) {
		wait := make(chan struct{})
		defer close(wait)
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			if s.id < 100 {
				<-wait
			}
			strict(s)
		})
		for id := uint32(1); id < 60; id += 2 {
			p.post(id)
			for range 3 {
				p.WriteData(id, false, make([]byte, 16384))
			}
		}
		p.post(101)
		p.WriteData(101, true, make([]byte, 16384))
		p.want("headers 101 :status=200 end")
	})
	t.Run("memory for all of it is bounded", func(t *testing.T) {
		wait := make(chan struct{})
		p, srv, codec := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
			<-wait
			strict(s)
		})
		codec.held.Add(budget) // others hold it all
		defer codec.held.Add(-budget)
		sent := 0
		for id := uint32(1); sent < connWindow; id += 2 {
			p.post(id)
			for range 3 {
				n := min(16384, connWindow-sent)
				p.WriteData(id, false, make([]byte, n))
				sent += n
			}
		}
		if f := p.frame(); f != "window 0 983041" {
			t.Error(f)
		}
		p.WritePing(false, [8]byte{})
		if f := p.frame(); f != "pong" {
			t.Errorf("%s while memory is short", f)
		}
		close(wait)
		for f := p.frame(); f[:9] != "window 0 "; f = p.frame() {
			if f[:6] != "window" {
				t.Fatal(f)
			}
		}
		p.nc.Close()
		_ = srv
	})
}

// TestSlowReaderStopsSender sends through a gate whose client does not read.
func TestSlowReaderStopsSender(t *testing.T) {
	const size = 64 << 20
	var codec Codec
	produced := make(chan int64, 1)
	up := servePair(t, &codec, func(s *ServerStream) {
		x := s.Exchange()
		x.Response.Status, x.Response.Length, x.Response.Body = 200, exchange.UnknownLength, exchange.NewBytes(make([]byte, size))
		n, err := s.WriteResponse(&x.Request, &x.Response)
		if err == nil {
			t.Error("all was taken")
		}
		produced <- n
	})
	g := &gate{upstream: up}
	addr := g.listen(t)
	client := newClient(t)
	resp, err := client.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	// Nothing moves once every window on the way is shut.
	var last, held int64
	for same := 0; same < 20; {
		time.Sleep(5 * time.Millisecond)
		if held = codec.Usage().Held + g.codec.Usage().Held; held == last {
			same++
		} else {
			same, last = 0, held
		}
	}
	if held > 4<<20 {
		t.Errorf("%d bytes are held for a client that does not read", held)
	}
	resp.Body.Close()
	select {
	case n := <-produced:
		// Go's client grants 4 MiB for a stream.
		if n > 12<<20 {
			t.Errorf("%d bytes were sent towards a client that read 100 KiB", n)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the reset of the client did not get to the upstream")
	}
}

func TestHeaderTableSize(t *testing.T) {
	for _, size := range []uint32{0, 64, 4096, 1 << 20} {
		p, cc, _ := serverPeer(t, ClientOptions{})
		id := uint32(1)
		ask := func() {
			t.Helper()
			req := request("GET", nil, 0)
			req.Header.Add("x-long", strings.Repeat("v", 100))
			done := begin(cc, req, exchange.Options{})
			want := fmt.Sprint("headers ", id, " :method=GET :scheme=https :authority=a.test :path=/ x-mixed=Case x-long=", strings.Repeat("v", 100), " end")
			p.want(want)
			p.status(id, true, "200", "x-resp", strings.Repeat("w", 100))
			if r := <-done; r.err != nil {
				t.Fatal(r)
			}
			id += 2
		}
		ask()
		p.dec.SetAllowedMaxDynamicTableSize(max(size, 4096))
		p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 10}, xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: size})
		p.sync()
		p.dec.SetAllowedMaxDynamicTableSize(size)
		ask()
		ask()
	}
}

func TestLargeHeaders(t *testing.T) {
	// More than one frame both ways.
	p, cc, _ := serverPeer(t, ClientOptions{})
	value := strings.Repeat("\"", 20000)
	req := request("GET", nil, 0)
	req.Header.Add("x-big", value)
	done := begin(cc, req, exchange.Options{})
	p.ReadMetaHeaders = nil
	f, err := p.ReadFrame()
	for err == nil && f.Header().Type != xhttp2.FrameHeaders {
		f, err = p.ReadFrame()
	}
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Clone(f.(*xhttp2.HeadersFrame).HeaderBlockFragment())
	for ended := f.(*xhttp2.HeadersFrame).HeadersEnded(); !ended; {
		f, err = p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		block = append(block, f.(*xhttp2.ContinuationFrame).HeaderBlockFragment()...)
		ended = f.(*xhttp2.ContinuationFrame).HeadersEnded()
	}
	fields, err := p.dec.DecodeFull(block)
	if err != nil || fields[len(fields)-1].Value != value {
		t.Fatal(err)
	}
	b := p.block(":status", "200", "x-big", value)
	p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:10000], EndStream: true})
	p.WriteContinuation(1, true, b[10000:])
	if r := <-done; r.err != nil || r.resp.Header.Get("x-big") != value {
		t.Error(r)
	}
}
