package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// socket opens a WebSocket in a stream of HTTP/2 (RFC 8441) and talks to an
// echo server.
func (r *report) socket(address string) {
	name, _, _ := strings.Cut(address, ":")
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", address, &tls.Config{ServerName: name, NextProtos: []string{"h2"}})
	if err != nil {
		r.check("connect", func() error { return err })
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	s := &tunnelStream{conn: conn, framer: http2.NewFramer(conn, bufio.NewReader(conn))}
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.check("settings", s.greet)
	r.check("open", func() error { return s.open(address) })
	for _, n := range []int{0, 1, 125, 126, 60_000, 70_000, 300_000} {
		r.check(fmt.Sprintf("message-%d", n), func() error {
			want := bytes.Repeat([]byte{byte(n), 1, 2}, n/3+1)[:n]
			if err := s.send(2, want); err != nil {
				return err
			}
			op, got, err := s.message()
			if err != nil || op != 2 || !bytes.Equal(got, want) {
				return fmt.Errorf("opcode %d, %d bytes: %v", op, len(got), err)
			}
			return nil
		})
	}
	r.check("close", func() error {
		if err := s.send(8, []byte{0x0f, 0xa1}); err != nil { // 4001
			return err
		}
		op, got, err := s.message()
		if err != nil || op != 8 || !bytes.Equal(got, []byte{0x0f, 0xa1}) {
			return fmt.Errorf("opcode %d, %x: %v", op, got, err)
		}
		return nil
	})
	r.check("refused", func() error { return s.refused(address) })
}

// A tunnelStream is stream 1 of a connection and what has been read from it.
type tunnelStream struct {
	conn    net.Conn
	framer  *http2.Framer
	data    bytes.Buffer
	headers *http2.MetaHeadersFrame
	ended   bool
	// window is what may be sent on the stream, shared by all of the connection.
	window, all, frame int
}

func (s *tunnelStream) greet() error {
	io.WriteString(s.conn, http2.ClientPreface)
	s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	s.framer.WriteWindowUpdate(0, 1<<20)
	s.window, s.all, s.frame = 65535, 65535, 16384
	f, err := s.framer.ReadFrame()
	if err != nil {
		return err
	}
	settings, ok := f.(*http2.SettingsFrame)
	if !ok {
		return fmt.Errorf("first frame %v", f)
	}
	if v, ok := settings.Value(http2.SettingInitialWindowSize); ok {
		s.window = int(v)
	}
	if v, ok := settings.Value(http2.SettingEnableConnectProtocol); !ok || v != 1 {
		return errors.New("the server does not know extended CONNECT")
	}
	return s.framer.WriteSettingsAck()
}

func (s *tunnelStream) request(id uint32, address, path string) error {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", address}, {":path", path},
		{"sec-websocket-version", "13"}, {"origin", "https://" + address}} {
		e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
}

func (s *tunnelStream) open(address string) error {
	if err := s.request(1, address, "/socket"); err != nil {
		return err
	}
	for s.headers == nil {
		if err := s.read(); err != nil {
			return err
		}
	}
	if got := s.headers.PseudoValue("status"); got != "200" {
		return fmt.Errorf("status %s", got)
	}
	return nil
}

func (s *tunnelStream) refused(address string) error {
	s.headers = nil
	if err := s.request(3, address, "/secret/socket"); err != nil {
		return err
	}
	for s.headers == nil || s.headers.StreamID != 3 {
		if err := s.read(); err != nil {
			return err
		}
	}
	if got := s.headers.PseudoValue("status"); got != "403" {
		return fmt.Errorf("status %s", got)
	}
	return nil
}

// read takes one frame.
func (s *tunnelStream) read() error {
	f, err := s.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		s.headers = f
	case *http2.DataFrame:
		if f.StreamID == 1 {
			s.data.Write(f.Data())
			s.ended = f.StreamEnded()
		}
		if n := f.Header().Length; n > 0 {
			s.framer.WriteWindowUpdate(0, n)
			if f.StreamID == 1 && !s.ended {
				s.framer.WriteWindowUpdate(1, n)
			}
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			s.all += int(f.Increment)
		} else {
			s.window += int(f.Increment)
		}
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return s.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return s.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		// After its end a stream may be closed for what we could still send (RFC
		// 9113 section 8.1).
		if !s.ended || f.StreamID != 1 || f.ErrCode != http2.ErrCodeNo {
			return fmt.Errorf("%v: %v", f, f.ErrCode)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("%v", f)
	}
	return nil
}

// send sends one masked message (RFC 6455 section 5.2).
func (s *tunnelStream) send(op byte, p []byte) error {
	b := []byte{0x80 | op}
	switch {
	case len(p) < 126:
		b = append(b, 0x80|byte(len(p)))
	case len(p) < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(p)))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(len(p)))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i, c := range p {
		b = append(b, c^mask[i%4])
	}
	for len(b) > 0 {
		n := min(len(b), s.window, s.all, s.frame)
		if n <= 0 {
			if err := s.read(); err != nil {
				return err
			}
			continue
		}
		if err := s.framer.WriteData(1, false, b[:n]); err != nil {
			return err
		}
		b, s.window, s.all = b[n:], s.window-n, s.all-n
	}
	return nil
}

// message reads one unmasked message, of as many frames as it has.
func (s *tunnelStream) message() (op byte, p []byte, err error) {
	need := func(n int) ([]byte, error) {
		for s.data.Len() < n {
			if s.ended {
				return nil, io.ErrUnexpectedEOF
			}
			if err := s.read(); err != nil {
				return nil, err
			}
		}
		return s.data.Next(n), nil
	}
	for {
		h, err := need(2)
		if err != nil {
			return 0, nil, err
		}
		final, length := h[0]&0x80 != 0, int(h[1]&0x7f)
		if o := h[0] & 0x0f; o != 0 {
			op = o
		}
		if length == 126 {
			if h, err = need(2); err == nil {
				length = int(binary.BigEndian.Uint16(h))
			}
		} else if length == 127 {
			if h, err = need(8); err == nil {
				length = int(binary.BigEndian.Uint64(h))
			}
		}
		if err != nil {
			return 0, nil, err
		}
		b, err := need(length)
		if err != nil {
			return 0, nil, err
		}
		p = append(p, b...)
		if final {
			return op, p, nil
		}
	}
}
