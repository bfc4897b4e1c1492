package http2

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sallyport/pkg/exchange"
)

// A scriptConn is a connection whose far end says what it has to say, in
// pieces, and throws away what it hears.
type scriptConn struct {
	mu     sync.Mutex
	in     []byte
	step   int
	closed bool
}

func (c *scriptConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.in) == 0 {
		return 0, io.EOF
	}
	n := min(len(c.in), len(p))
	if c.step > 0 {
		n = min(n, c.step)
	}
	copy(p, c.in[:n])
	c.in = c.in[n:]
	return n, nil
}

func (c *scriptConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return len(p), nil
}

func (c *scriptConn) Close() error                     { c.mu.Lock(); c.closed = true; c.mu.Unlock(); return nil }
func (c *scriptConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *scriptConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

// seedFrames gives conversations of a client, or of a server.
func seedFrames(client bool) [][]byte {
	var out [][]byte
	add := func(write func(f *xhttp2.Framer, block func(...string) []byte)) {
		var buf, hbuf bytes.Buffer
		if client {
			buf.WriteString(preface)
		}
		f := xhttp2.NewFramer(&buf, nil)
		f.AllowIllegalWrites = true
		enc := hpack.NewEncoder(&hbuf)
		f.WriteSettings(xhttp2.Setting{ID: 4, Val: 100})
		write(f, func(fields ...string) []byte {
			hbuf.Reset()
			for i := 0; i < len(fields); i += 2 {
				enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
			}
			return bytes.Clone(hbuf.Bytes())
		})
		out = append(out, buf.Bytes())
	}
	fields := getFields
	if !client {
		fields = []string{":status", "200"}
	}
	add(func(f *xhttp2.Framer, block func(...string) []byte) {
		f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block(fields...), EndHeaders: true})
		f.WriteDataPadded(1, false, []byte("hello"), make([]byte, 9))
		f.WriteWindowUpdate(1, 70000)
		f.WriteWindowUpdate(0, 1)
		f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block("x", "y"), EndHeaders: true, EndStream: true})
		f.WritePing(false, [8]byte{1})
		f.WriteGoAway(5, 0, []byte("bye"))
	})
	add(func(f *xhttp2.Framer, block func(...string) []byte) {
		b := block(append(fields[:len(fields):len(fields)], "content-length", "3", "cookie", "a=b", "cookie", "c")...)
		f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], PadLength: 4, Priority: xhttp2.PriorityParam{Weight: 3}})
		f.WriteContinuation(1, true, b[3:])
		f.WriteData(1, true, []byte("abc"))
		f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: block(fields...), EndHeaders: true, EndStream: true})
		f.WriteRSTStream(3, 8)
		f.WriteSettings(xhttp2.Setting{ID: 4, Val: 0}, xhttp2.Setting{ID: 1, Val: 0}, xhttp2.Setting{ID: 5, Val: 20000}, xhttp2.Setting{ID: 3, Val: 1})
		f.WritePriority(5, xhttp2.PriorityParam{StreamDep: 1})
		f.WritePushPromise(xhttp2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: block(fields...), EndHeaders: true})
	})
	add(func(f *xhttp2.Framer, block func(...string) []byte) {
		f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block("x", "early"), EndHeaders: true})
		f.WriteRawFrame(0xee, 0xff, 9, []byte("?"))
		f.WriteWindowUpdate(1, 0)
		f.WriteData(7, false, make([]byte, 70))
	})
	return out
}

// FuzzServer gives our server bytes and looks that it ends, without a panic,
// holding nothing.
func FuzzServer(f *testing.F) {
	for _, seed := range seedFrames(true) {
		f.Add(seed, uint16(0))
		f.Add(seed, uint16(1))
		f.Add(seed[len(preface):], uint16(100))
	}
	f.Fuzz(func(t *testing.T, raw []byte, step uint16) {
		codec := new(Codec)
		srv := codec.Server(&scriptConn{in: bytes.Clone(raw), step: int(step)}, ServerOptions{Exchanges: new(exchange.Pool), ExtendedConnect: true, MaxStreams: 4})
		err := srv.Serve(context.Background(), func(s *ServerStream) {
			x := s.Exchange()
			req, resp := &x.Request, &x.Response
			if bad := s.Malformed(); bad != nil {
				reply(s, bad.Status, bad.Text)
				return
			}
			checkRequestSound(t, req)
			if req.Method == "PUT" {
				return
			}
			resp.Status, resp.Length, resp.Body = 200, exchange.UnknownLength, req.Body
			s.WriteResponse(req, resp)
		})
		_ = err
		srv.Close()
		checkEmpty(t, codec, &srv.c)
	})
}

// checkRequestSound looks that what a request says would stay in its place in
// any version of HTTP.
func checkRequestSound(t *testing.T, req *exchange.Request) {
	for _, s := range []string{req.Method, req.Scheme, req.Authority, req.Path, req.Query, req.Target, req.Upgrade} {
		if !all(s, isTarget) {
			t.Errorf("%q in the head of a request", s)
		}
	}
	if req.Authority == "" || req.Method == "" {
		t.Error("no authority or method")
	}
	for i := range req.Header.Len() {
		f := req.Header.At(i)
		if f.Name == "" || f.Name[0] == ':' || !all(f.Name, isName) || !isFieldValue(f.Value) || f.ID.HopByHop() || f.ID == exchange.TransferEncoding {
			t.Errorf("field %q: %q", f.Name, f.Value)
		}
	}
}

// FuzzClient gives our client, which has two exchanges open, bytes from its
// server.
func FuzzClient(f *testing.F) {
	for _, seed := range seedFrames(false) {
		f.Add(seed, uint16(0))
		f.Add(seed, uint16(1))
	}
	f.Fuzz(func(t *testing.T, raw []byte, step uint16) {
		codec := new(Codec)
		gate := make(chan struct{})
		nc := &gatedConn{scriptConn: scriptConn{in: bytes.Clone(raw), step: int(step)}, gate: gate}
		cc := codec.Client(nc, ClientOptions{})
		var wg sync.WaitGroup
		for i := range 2 {
			s, err := cc.Open()
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				req := request("GET", nil, 0)
				if i == 1 {
					req = request("POST", exchange.NewBytes(make([]byte, 100000)), 100000)
				}
				var resp exchange.Response
				err := s.RoundTrip(req, &resp, exchange.Options{Informational: func(*exchange.Response) error { return nil }})
				if err == nil && resp.Body != nil {
					io.Copy(io.Discard, resp.Body)
				}
				s.Finish(req)
			})
		}
		close(gate)
		<-cc.done
		wg.Wait()
		cc.Close()
		checkEmpty(t, codec, &cc.c)
	})
}

// A gatedConn says nothing before something was written to it.
type gatedConn struct {
	scriptConn
	gate chan struct{}
}

func (c *gatedConn) Read(p []byte) (int, error) {
	<-c.gate
	return c.scriptConn.Read(p)
}

// FuzzBlock looks that a header list that we accept is encoded and decoded to
// the same.
func FuzzBlock(f *testing.F) {
	f.Add([]byte("\x82\x87\x84\x41\x01a"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		codec := new(Codec)
		b := codec.getBlock()
		dec := hpack.NewDecoder(4096, func(h hpack.HeaderField) { b.add(h, nil) })
		if _, err := dec.Write(raw); err != nil || dec.Close() != nil {
			return
		}
		var req exchange.Request
		if b.request(&req, true, true) != nil {
			return
		}
		checkRequestSound(t, &req)
		if req.Method == "CONNECT" && req.Upgrade == "" {
			return
		}
		if err := checkRequest(&req); err != nil {
			t.Fatalf("%+v cannot be forwarded", req)
		}
		c := &conn{codec: codec, peerFrame: maxFrame}
		c.begin()
		c.encodeRequest(1, &req, true)
		again := codec.getBlock()
		h := parseFrameHeader(c.out.b)
		if h.length > maxFrame || len(c.out.b) > maxFrame {
			return
		}
		dec2 := hpack.NewDecoder(4096, func(h hpack.HeaderField) { again.add(h, nil) })
		if _, err := dec2.Write(c.out.b[frameHeaderLen:]); err != nil || dec2.Close() != nil {
			t.Fatal(err)
		}
		var req2 exchange.Request
		if err := again.request(&req2, true, true); err != nil {
			t.Fatal(err)
		}
		if req2.Method != req.Method || req2.Authority != req.Authority || req2.Path != req.Path || req2.Query != req.Query || req2.HasQuery != req.HasQuery || req2.Upgrade != req.Upgrade {
			t.Errorf("%+v became %+v", req, req2)
		}
	})
}
