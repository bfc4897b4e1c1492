package http2

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

func without(fields []string, name string) []string {
	var out []string
	for i := 0; i < len(fields); i += 2 {
		if fields[i] != name {
			out = append(out, fields[i], fields[i+1])
		}
	}
	return out
}

func with(fields []string, more ...string) []string {
	return append(slices.Clip(slices.Clone(fields)), more...)
}

// TestServerConformance does by hand, section by section of RFC 9113, what a
// client may do or must not, and looks at what our server answers first. "pong"
// is that a PING behind it was answered first: the connection goes on and
// nothing was answered.
func TestServerConformance(t *testing.T) {
	const served = "headers 1 :status=200 end"
	malformed := "headers 1 :status=400"
	fields := func(list ...string) func(p *peer) { return func(p *peer) { p.headers(1, true, list...) } }
	for _, c := range []struct {
		section, name string
		send          func(p *peer)
		want          string
		counted       string
	}{
		{"3.4", "request behind the preface", func(p *peer) { p.get(1) }, served, ""},
		{"4.1", "unknown frame is ignored", func(p *peer) { p.WriteRawFrame(0xfa, 0xff, 0, []byte("hello")); p.WritePing(false, [8]byte{}) }, "pong", ""},
		{"4.1", "unknown frame on an idle stream is ignored", func(p *peer) { p.WriteRawFrame(0xfa, 0, 77, nil); p.WritePing(false, [8]byte{}) }, "pong", ""},
		{"4.1", "unknown flags and the reserved bit are ignored", func(p *peer) {
			p.nc.Write([]byte{0, 0, 8, 6, 0xf6, 0x80, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
		}, "pong", ""},
		{"4.2", "frame over SETTINGS_MAX_FRAME_SIZE", func(p *peer) { p.post(1); p.WriteData(1, true, make([]byte, 16385)) }, "goaway 1 FRAME_SIZE_ERROR", "protocol_error"},
		{"4.2", "frame of the largest size", func(p *peer) { p.post(1); p.WriteData(1, true, make([]byte, 16384)) }, "headers 1 :status=200 end", ""},
		{"4.3", "header block that cannot be decoded", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndStream: true, EndHeaders: true})
		}, "goaway 0 COMPRESSION_ERROR", "protocol_error"},
		{"4.3", "header block with an index beyond the tables", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xfe}, EndStream: true, EndHeaders: true})
		}, "goaway 0 COMPRESSION_ERROR", "protocol_error"},
		{"4.3", "another frame within a header block", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...), EndStream: true})
			p.WritePing(false, [8]byte{})
		}, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"4.3", "unknown frame within a header block", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...), EndStream: true})
			p.WriteRawFrame(0xfa, 0, 1, nil)
		}, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"4.3", "header block in pieces of one byte", func(p *peer) {
			b := p.block(":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/")
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:1], EndStream: true})
			for i := 1; i < len(b); i++ {
				p.WriteContinuation(1, i == len(b)-1, b[i:i+1])
			}
		}, served, ""},
		{"5.1", "DATA on an idle stream", func(p *peer) { p.WriteData(1, true, nil) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"5.1", "RST_STREAM on an idle stream", func(p *peer) { p.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"5.1", "WINDOW_UPDATE on an idle stream", func(p *peer) { p.WriteWindowUpdate(1, 1) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"5.1", "CONTINUATION on an idle stream", func(p *peer) { p.WriteContinuation(1, true, p.block(getFields...)) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"5.1", "DATA behind END_STREAM", func(p *peer) { p.get(1, "x-wait", "1"); p.WriteData(1, true, nil) }, "reset 1 STREAM_CLOSED", ""},
		{"5.1", "HEADERS behind END_STREAM", func(p *peer) { p.get(1, "x-wait", "1"); p.headers(1, true, "a", "b") }, "reset 1 STREAM_CLOSED", ""},
		{"5.1", "WINDOW_UPDATE and PRIORITY behind END_STREAM", func(p *peer) {
			p.get(1)
			p.WriteWindowUpdate(1, 10)
			p.WritePriority(1, xhttp2.PriorityParam{StreamDep: 3})
		}, served, ""},
		{"5.1.1", "even stream", func(p *peer) { p.get(2) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"5.1.2", "more streams than allowed", func(p *peer) {
			p.get(1, "x-wait", "1")
			p.get(3, "x-wait", "1")
			p.get(5, "x-wait", "1")
		}, "reset 5 REFUSED_STREAM", ""},
		{"5.3.2", "PRIORITY on idle streams is ignored", func(p *peer) {
			p.WritePriority(9, xhttp2.PriorityParam{StreamDep: 9, Exclusive: true, Weight: 3})
			p.get(1)
		}, served, ""},
		{"6.1", "DATA without a stream", func(p *peer) { p.WriteData(0, true, nil) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.1", "padding as long as the frame", func(p *peer) {
			p.post(1)
			p.WriteRawFrame(xhttp2.FrameData, xhttp2.FlagDataPadded|xhttp2.FlagDataEndStream, 1, []byte{5, 0, 0, 0, 0})
		}, "goaway 1 PROTOCOL_ERROR", "protocol_error"},
		{"6.1", "padded DATA without a length", func(p *peer) {
			p.post(1)
			p.WriteRawFrame(xhttp2.FrameData, xhttp2.FlagDataPadded, 1, nil)
		}, "goaway 1 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.1", "padded DATA", func(p *peer) {
			p.post(1, "content-length", "3")
			p.WriteDataPadded(1, true, []byte("abc"), make([]byte, 255))
		}, served, ""},
		{"6.2", "HEADERS without a stream", func(p *peer) { p.get(0) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.2", "HEADERS with padding and priority", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...), EndStream: true, EndHeaders: true,
				PadLength: 200, Priority: xhttp2.PriorityParam{StreamDep: 5, Weight: 1}})
		}, served, ""},
		{"6.2", "HEADERS that depends on itself is no error any more", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...), EndStream: true, EndHeaders: true,
				Priority: xhttp2.PriorityParam{StreamDep: 1, Weight: 1}})
		}, served, ""},
		{"6.2", "HEADERS with padding longer than it", func(p *peer) {
			p.WriteRawFrame(xhttp2.FrameHeaders, xhttp2.FlagHeadersPadded|xhttp2.FlagHeadersEndHeaders, 1, []byte{200, 1, 2})
		}, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.2", "HEADERS shorter than its priority", func(p *peer) {
			p.WriteRawFrame(xhttp2.FrameHeaders, xhttp2.FlagHeadersPriority|xhttp2.FlagHeadersEndHeaders, 1, []byte{1, 2})
		}, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.3", "PRIORITY without a stream", func(p *peer) { p.WriteRawFrame(xhttp2.FramePriority, 0, 0, make([]byte, 5)) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.3", "PRIORITY of another length", func(p *peer) { p.WriteRawFrame(xhttp2.FramePriority, 0, 1, make([]byte, 4)) }, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.4", "RST_STREAM without a stream", func(p *peer) { p.WriteRSTStream(0, 0) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.4", "RST_STREAM of another length", func(p *peer) { p.get(1, "x-wait", "1"); p.WriteRawFrame(xhttp2.FrameRSTStream, 0, 1, make([]byte, 3)) }, "goaway 1 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.5", "SETTINGS on a stream", func(p *peer) { p.WriteRawFrame(xhttp2.FrameSettings, 0, 1, nil) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.5", "SETTINGS of a length that is no multiple of 6", func(p *peer) { p.WriteRawFrame(xhttp2.FrameSettings, 0, 0, make([]byte, 7)) }, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.5", "acknowledgement with content", func(p *peer) { p.WriteRawFrame(xhttp2.FrameSettings, xhttp2.FlagSettingsAck, 0, make([]byte, 6)) }, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.5.2", "ENABLE_PUSH of 2", func(p *peer) { p.WriteSettings(xhttp2.Setting{ID: 2, Val: 2}) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.5.2", "INITIAL_WINDOW_SIZE over 2^31-1", func(p *peer) { p.WriteSettings(xhttp2.Setting{ID: 4, Val: 1 << 31}) }, "goaway 0 FLOW_CONTROL_ERROR", "protocol_error"},
		{"6.5.2", "MAX_FRAME_SIZE under 16384", func(p *peer) { p.WriteSettings(xhttp2.Setting{ID: 5, Val: 16383}) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.5.2", "MAX_FRAME_SIZE over 2^24-1", func(p *peer) { p.WriteSettings(xhttp2.Setting{ID: 5, Val: 1 << 24}) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.5.2", "unknown setting is ignored", func(p *peer) { p.WriteSettings(xhttp2.Setting{ID: 0xf0, Val: 1}); p.get(1) }, served, ""},
		{"6.6", "PUSH_PROMISE from a client", func(p *peer) {
			p.get(1, "x-wait", "1")
			p.WritePushPromise(xhttp2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.block(getFields...), EndHeaders: true})
		}, "goaway 1 PROTOCOL_ERROR", "protocol_error"},
		{"6.7", "PING", func(p *peer) { p.WritePing(false, [8]byte{1}) }, "pong", ""},
		{"6.7", "PING on a stream", func(p *peer) { p.WriteRawFrame(xhttp2.FramePing, 0, 1, make([]byte, 8)) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.7", "PING of another length", func(p *peer) { p.WriteRawFrame(xhttp2.FramePing, 0, 0, make([]byte, 7)) }, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.8", "GOAWAY on a stream", func(p *peer) { p.WriteRawFrame(xhttp2.FrameGoAway, 0, 1, make([]byte, 8)) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.8", "GOAWAY of another length", func(p *peer) { p.WriteRawFrame(xhttp2.FrameGoAway, 0, 0, make([]byte, 7)) }, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.9", "WINDOW_UPDATE by 0 on the connection", func(p *peer) { p.WriteWindowUpdate(0, 0) }, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.9", "WINDOW_UPDATE by 0 on a stream", func(p *peer) { p.get(1, "x-wait", "1"); p.WriteWindowUpdate(1, 0) }, "reset 1 PROTOCOL_ERROR", ""},
		{"6.9", "WINDOW_UPDATE of another length", func(p *peer) { p.WriteRawFrame(xhttp2.FrameWindowUpdate, 0, 0, make([]byte, 3)) }, "goaway 0 FRAME_SIZE_ERROR", "protocol_error"},
		{"6.9.1", "window of the connection over 2^31-1", func(p *peer) { p.WriteWindowUpdate(0, 1<<31-1) }, "goaway 0 FLOW_CONTROL_ERROR", "protocol_error"},
		{"6.9.1", "window of a stream over 2^31-1", func(p *peer) { p.get(1, "x-wait", "1"); p.WriteWindowUpdate(1, 1<<31-1) }, "reset 1 FLOW_CONTROL_ERROR", ""},
		{"6.9.1", "DATA beyond the window of a stream", func(p *peer) {
			p.post(1, "x-wait", "1")
			for range 5 {
				p.WriteData(1, false, make([]byte, 16384))
			}
		}, "reset 1 FLOW_CONTROL_ERROR", ""},
		{"6.9.2", "initial window that makes a window overflow", func(p *peer) {
			p.get(1, "x-wait", "1")
			p.WriteWindowUpdate(1, 1<<31-1-65535)
			p.WriteSettings(xhttp2.Setting{ID: 4, Val: 65536})
		}, "goaway 1 FLOW_CONTROL_ERROR", "protocol_error"},
		{"6.10", "CONTINUATION of another stream", func(p *peer) {
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getFields...), EndStream: true})
			p.WriteContinuation(3, true, nil)
		}, "goaway 0 PROTOCOL_ERROR", "protocol_error"},
		{"6.10", "CONTINUATION behind END_HEADERS", func(p *peer) { p.get(1, "x-wait", "1"); p.WriteContinuation(1, true, nil) }, "goaway 1 PROTOCOL_ERROR", "protocol_error"},
		{"8.1", "request with a body", func(p *peer) { p.post(1, "content-length", "5"); p.WriteData(1, true, []byte("hello")) }, served, ""},
		{"8.1", "request with trailers", func(p *peer) { p.post(1); p.WriteData(1, false, []byte("hello")); p.headers(1, true, "a", "b") }, served, ""},
		{"8.1", "trailers that do not end the stream", func(p *peer) { p.post(1); p.headers(1, false, "a", "b") }, "reset 1 PROTOCOL_ERROR", ""},
		{"8.1", "pseudo-header field in trailers", func(p *peer) { p.post(1); p.headers(1, true, ":path", "/b") }, "reset 1 PROTOCOL_ERROR", ""},
		{"8.1.1", "content longer than declared", func(p *peer) { p.post(1, "content-length", "4"); p.WriteData(1, true, []byte("hello")) }, "reset 1 PROTOCOL_ERROR", ""},
		{"8.1.1", "content shorter than declared", func(p *peer) { p.post(1, "content-length", "6"); p.WriteData(1, true, []byte("hello")) }, "reset 1 PROTOCOL_ERROR", ""},
		{"8.1.1", "content shorter than declared, before trailers", func(p *peer) {
			p.post(1, "content-length", "6")
			p.WriteData(1, false, []byte("hello"))
			p.headers(1, true, "a", "b")
		}, "reset 1 PROTOCOL_ERROR", ""},
		{"8.1.1", "no content where some is declared", fields(with(getFields, "content-length", "1")...), malformed, ""},
		{"8.1.1", "content-length twice", fields(with(getFields, "content-length", "0", "content-length", "0")...), malformed, ""},
		{"8.1.1", "content-length that is no number", fields(with(getFields, "content-length", "+0")...), malformed, ""},
		{"8.2", "field name in upper case", fields(with(getFields, "X-Upper", "1")...), malformed, ""},
		{"8.2.1", "space in a field name", fields(with(getFields, "x y", "1")...), malformed, ""},
		{"8.2.1", "colon in a field name", fields(with(getFields, "x:y", "1")...), malformed, ""},
		{"8.2.1", "empty field name", fields(with(getFields, "", "1")...), malformed, ""},
		{"8.2.1", "line end in a field value", fields(with(getFields, "x", "a\r\nb: c")...), malformed, ""},
		{"8.2.1", "NUL in a field value", fields(with(getFields, "x", "a\x00b")...), malformed, ""},
		{"8.2.1", "space before a field value", fields(with(getFields, "x", " a")...), malformed, ""},
		{"8.2.1", "tab behind a field value", fields(with(getFields, "x", "a\t")...), malformed, ""},
		{"8.2.2", "connection", fields(with(getFields, "connection", "close")...), malformed, ""},
		{"8.2.2", "transfer-encoding", fields(with(postFields, "transfer-encoding", "chunked")...), malformed, ""},
		{"8.2.2", "keep-alive", fields(with(getFields, "keep-alive", "1")...), malformed, ""},
		{"8.2.2", "upgrade", fields(with(getFields, "upgrade", "websocket")...), malformed, ""},
		{"8.2.2", "proxy-connection", fields(with(getFields, "proxy-connection", "close")...), malformed, ""},
		{"8.2.2", "te: trailers", fields(with(getFields, "te", "trailers")...), served, ""},
		{"8.2.2", "te other than trailers", fields(with(getFields, "te", "trailers, gzip")...), malformed, ""},
		{"8.3", "unknown pseudo-header field", fields(with(getFields, ":x", "1")...), malformed, ""},
		{"8.3", "pseudo-header field of a response", fields(with(getFields, ":status", "200")...), malformed, ""},
		{"8.3", "pseudo-header field behind a regular one", fields(with(without(getFields, ":path"), "a", "b", ":path", "/")...), malformed, ""},
		{"8.3", "pseudo-header field twice", fields(with(getFields, ":path", "/")...), malformed, ""},
		{"8.3.1", "no :method", fields(without(getFields, ":method")...), malformed, ""},
		{"8.3.1", "no :scheme", fields(without(getFields, ":scheme")...), malformed, ""},
		{"8.3.1", "no :path", fields(without(getFields, ":path")...), malformed, ""},
		{"8.3.1", "empty :path", fields(with(without(getFields, ":path"), ":path", "")...), malformed, ""},
		{"8.3.1", ":path that is a URI", fields(with(without(getFields, ":path"), ":path", "http://a/")...), malformed, ""},
		{"8.3.1", ":path with a space", fields(with(without(getFields, ":path"), ":path", "/a b")...), malformed, ""},
		{"8.3.1", "asterisk without OPTIONS", fields(with(without(getFields, ":path"), ":path", "*")...), malformed, ""},
		{"8.3.1", "asterisk with OPTIONS", fields(":method", "OPTIONS", ":scheme", "https", ":authority", "a", ":path", "*"), served, ""},
		{"8.3.1", "no authority at all", fields(without(getFields, ":authority")...), malformed, ""},
		{"8.3.1", "Host instead of :authority", fields(with(without(getFields, ":authority"), "host", "a.test")...), served, ""},
		{"8.3.1", "Host that differs from :authority", fields(with(getFields, "host", "b.test")...), malformed, ""},
		{"8.3.1", "Host that is :authority", fields(with(getFields, "host", "a.test")...), served, ""},
		{"8.3.1", "Host twice", fields(with(getFields, "host", "a.test", "host", "a.test")...), malformed, ""},
		{"8.3.1", "userinfo in :authority", fields(with(without(getFields, ":authority"), ":authority", "u@a.test")...), malformed, ""},
		{"8.3.1", "another scheme", fields(with(without(getFields, ":scheme"), ":scheme", "ftp")...), malformed, ""},
		{"8.3.1", "method that is no token", fields(with(without(getFields, ":method"), ":method", "G ET")...), malformed, ""},
		{"8.5", "CONNECT with :path", fields(with(without(getFields, ":method"), ":method", "CONNECT")...), malformed, ""},
		{"8.5", "CONNECT without a port", fields(":method", "CONNECT", ":authority", "a.test"), malformed, ""},
		{"8.5", "CONNECT", fields(":method", "CONNECT", ":authority", "a.test:443"), served, ""},
		{"RFC 8441 4", "extended CONNECT that was not offered", fields(":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a", ":path", "/"), malformed, ""},
		{"10.5.1", "header list over 64 KiB", func(p *peer) {
			big := p.block(with(getFields, "b", strings.Repeat("\"", 30000), "c", strings.Repeat("\"", 30000), "d", strings.Repeat("\"", 6000))...)
			p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: big[:16384], EndStream: true})
			for big = big[16384:]; len(big) > 0; {
				n := min(len(big), 16384)
				p.WriteContinuation(3, n == len(big), big[:n])
				big = big[n:]
			}
		}, "headers 3 :status=400", "header_list"},
		{"10.5.1", "header list over 256 fields", func(p *peer) {
			p.headers(1, true, append(getFields[:8:8], strings.Split(strings.Repeat("a b ", 257)[:257*4-1], " ")...)...)
		}, malformed, "header_list"},
	} {
		t.Run(c.section+" "+c.name, func(t *testing.T) {
			wait := make(chan struct{})
			p, _, codec := clientPeer(t, ServerOptions{MaxStreams: 2}, func(s *ServerStream) {
				if s.Exchange().Request.Header.Has("x-wait") {
					<-wait
				}
				strict(s)
			})
			done := make(chan string, 1)
			c.send(p)
			go func() { done <- p.next() }()
			var got string
			select {
			case got = <-done:
			case <-time.After(30 * time.Second):
			}
			close(wait)
			if got != c.want && !(strings.HasPrefix(c.want, "headers") && strings.HasPrefix(got, c.want+" ")) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if strings.HasPrefix(c.want, "goaway") {
				if got := p.next(); got != "end" {
					t.Errorf("behind GOAWAY %q", got)
				}
			}
			if c.counted == "" && len(tally(codec)) > 0 || c.counted != "" && tally(codec)[c.counted] != 1 {
				t.Errorf("counted %v, want %q", tally(codec), c.counted)
			}
		})
	}
}

func TestServerPreface(t *testing.T) {
	for name, raw := range map[string]string{
		"HTTP/1.1": "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "wrong end": preface[:20] + "XX\r\n", "no SETTINGS first": preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"acknowledgement first": preface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			codec := new(Codec)
			srv := codec.Server(a, ServerOptions{})
			done := make(chan error, 1)
			go func() { err := srv.Serve(t.Context(), strict); srv.Close(); done <- err }()
			p := newPeer(t, b)
			io.WriteString(b, raw)
			p.want("goaway 0 PROTOCOL_ERROR", "end")
			b.Close()
			if err := <-done; err == nil || tally(codec)["protocol_error"] != 1 {
				t.Errorf("%v %v", err, tally(codec))
			}
		})
	}
}

// TestServerAfterClose looks at frames on streams that are closed.
func TestServerAfterClose(t *testing.T) {
	for _, c := range []struct {
		name string
		send func(p *peer)
		want string
	}{
		{"RST_STREAM and WINDOW_UPDATE are ignored", func(p *peer) {
			p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
			p.WriteWindowUpdate(1, 1)
			p.WritePing(false, [8]byte{})
		}, "pong"},
		{"DATA", func(p *peer) { p.WriteData(1, true, []byte("x")) }, "reset 1 STREAM_CLOSED"},
		{"HEADERS", func(p *peer) { p.get(1) }, "goaway 1 STREAM_CLOSED"},
	} {
		t.Run("finished/"+c.name, func(t *testing.T) {
			p, _, _ := clientPeer(t, ServerOptions{}, strict)
			p.get(1)
			p.want("headers 1 :status=200 end")
			c.send(p)
			p.want(c.want)
		})
	}
	t.Run("reset by us", func(t *testing.T) {
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) { reply(s, 403, "no") })
		p.post(1)
		p.want("headers 1 :status=403 content-length=2", "data 1 2 end", "reset 1 NO_ERROR")
		// What was on its way is nobody's fault.
		p.WriteData(1, false, []byte("late"))
		p.headers(1, true, "late", "1")
		p.WritePing(false, [8]byte{})
		p.want("pong")
	})
	t.Run("window of the connection comes back", func(t *testing.T) {
		p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) { reply(s, 403, "") })
		p.post(1)
		p.want("headers 1 :status=403 end", "reset 1 NO_ERROR")
		left := connWindow
		for i := 0; i < 3*connWindow; i += 16384 {
			for left < 16384 {
				f := p.frame()
				if f != "window 0 524288" {
					t.Fatal(f)
				}
				left += 524288
			}
			left -= 16384
			if err := p.WriteData(1, false, bytes.Repeat([]byte("x"), 16384)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
