package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Frame types and flags (RFC 9113 section 6).
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 1
	flagAck        = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 32
)

// originProtocol is the field by which the origin says what it was asked in.
const originProtocol = "x-origin-protocol"

// A streamer is one HTTP/2 connection with a fixed number of requests under
// way: one goroutine, one write for all that one read lets it ask. A real
// library would cost more processor time than the proxies do.
type streamer struct {
	conn    *tls.Conn
	name    string
	streams int
	want    []byte

	encoder *hpack.Encoder
	block   bytes.Buffer // the latest header block
	encoded int          // how often it was encoded with the table as it is

	in      []byte // what was read and is no whole frame yet
	out     []byte
	next    uint32
	open    int
	slots   [4096]slot
	decoder *hpack.Decoder
	fields  [2]string // :status and originProtocol of the answer at hand
	times   []time.Duration
	record  bool
	all     int
}

// A slot is one request under way.
type slot struct {
	id      uint32
	headers bool
	got     int
	begin   time.Time
}

func newStreamer(conn *tls.Conn, name string, streams int, want []byte) *streamer {
	s := &streamer{conn: conn, name: name, streams: streams, want: want, next: 1}
	s.encoder = hpack.NewEncoder(&s.block)
	s.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			s.fields[0] = f.Value
		case originProtocol:
			s.fields[1] = f.Value
		}
	})
	s.out = append(s.out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	// ENABLE_PUSH 0 and INITIAL_WINDOW_SIZE 1 MiB; then the connection's window
	// as large as it can be, so that no update is ever needed.
	s.frame(frameSettings, 0, 0, []byte{0, 2, 0, 0, 0, 0, 0, 4, 0, 0x10, 0, 0})
	s.frame(frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, 1<<31-1-65535))
	return s
}

// headerBlock gives the header block of the next request. As from any client the
// first one puts its fields into the table and those after it refer to them;
// from the second one on it is always the same.
func (s *streamer) headerBlock() []byte {
	if s.encoded < 2 {
		s.encoded++
		s.block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", s.name}, {":path", "/small"}, {"user-agent", "bench"}, {"accept", "*/*"}} {
			s.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // a bytes.Buffer takes all
		}
	}
	return s.block.Bytes()
}

func (s *streamer) frame(kind, flags byte, stream uint32, payload []byte) {
	n := len(payload)
	s.out = append(s.out, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	s.out = binary.BigEndian.AppendUint32(s.out, stream)
	s.out = append(s.out, payload...)
}

// load keeps the streams busy for the window and ends with none open.
func (s *streamer) load(window time.Duration, record bool) error {
	s.record = record
	end := time.Now().Add(window)
	s.conn.SetDeadline(end.Add(operationTime))
	buf := make([]byte, 128<<10)
	for {
		for now := time.Now(); s.open < s.streams && now.Before(end); {
			slot := &s.slots[s.next>>1%uint32(len(s.slots))]
			if slot.id != 0 {
				return fmt.Errorf("stream %d is still not answered while %d begins", slot.id, s.next)
			}
			slot.id, slot.begin, slot.headers, slot.got = s.next, now, false, 0
			s.frame(frameHeaders, flagEndStream|flagEndHeaders, s.next, s.headerBlock())
			s.next += 2
			s.open++
			s.all++
		}
		if len(s.out) > 0 {
			if _, err := s.conn.Write(s.out); err != nil {
				return err
			}
			s.out = s.out[:0]
		}
		if s.open == 0 {
			return nil
		}
		n := copy(buf, s.in)
		k, err := s.conn.Read(buf[n:])
		if err != nil {
			return err
		}
		n += k
		done, err := s.frames(buf[:n])
		if err != nil {
			return err
		}
		s.in = append(s.in[:0], buf[done:n]...)
	}
}

// frames reads the whole frames of b and says how long they are.
func (s *streamer) frames(b []byte) (done int, err error) {
	for len(b)-done >= 9 {
		f := b[done:]
		n := int(f[0])<<16 | int(f[1])<<8 | int(f[2])
		if n > 16<<10 {
			return done, fmt.Errorf("a frame of %d bytes", n)
		}
		if len(f) < 9+n {
			break
		}
		if err := s.read(f[3], f[4], binary.BigEndian.Uint32(f[5:])&(1<<31-1), f[9:9+n]); err != nil {
			return done, err
		}
		done += 9 + n
	}
	return done, nil
}

func (s *streamer) read(kind, flags byte, stream uint32, p []byte) error {
	switch kind {
	case frameData, frameHeaders:
		slot := &s.slots[stream>>1%uint32(len(s.slots))]
		if stream == 0 || slot.id != stream {
			return fmt.Errorf("a frame of type %d for stream %d, which is not open", kind, stream)
		}
		var err error
		if kind == frameData {
			err = s.data(slot, flags, p)
		} else {
			err = s.headers(slot, flags, p)
		}
		if err == nil && flags&flagEndStream != 0 {
			err = s.end(slot)
		}
		return err
	case frameSettings:
		if flags&flagAck == 0 {
			s.settings(p)
			s.frame(frameSettings, flagAck, 0, nil)
		}
	case framePing:
		if flags&flagAck == 0 {
			s.frame(framePing, flagAck, 0, p)
		}
	case frameReset:
		return fmt.Errorf("stream %d was reset, code %d", stream, binary.BigEndian.Uint32(p))
	case frameGoAway:
		return fmt.Errorf("the connection was ended, code %d: %q", binary.BigEndian.Uint32(p[4:]), p[8:])
	case frameContinuation:
		return errors.New("a CONTINUATION frame, which this client does not read")
	}
	return nil
}

// settings minds the only setting that touches this client: the size of the
// table that its header blocks refer to (RFC 9113 section 6.5.2).
func (s *streamer) settings(p []byte) {
	for ; len(p) >= 6; p = p[6:] {
		if binary.BigEndian.Uint16(p) == 1 {
			s.encoder.SetMaxDynamicTableSizeLimit(binary.BigEndian.Uint32(p[2:]))
			s.encoded = 0
		}
	}
}

func (s *streamer) data(slot *slot, flags byte, p []byte) error {
	if flags&flagPadded != 0 {
		return errors.New("a padded frame, which this client does not read")
	}
	if !slot.headers || len(p) > len(s.want)-slot.got || !bytes.Equal(p, s.want[slot.got:slot.got+len(p)]) {
		return errors.New("the answer has another body")
	}
	slot.got += len(p)
	return nil
}

func (s *streamer) headers(slot *slot, flags byte, p []byte) error {
	if flags&flagEndHeaders == 0 || flags&(flagPadded|flagPriority) != 0 || slot.headers {
		return fmt.Errorf("a HEADERS frame with flags %#x, which this client does not read", flags)
	}
	s.fields = [2]string{}
	if _, err := s.decoder.Write(p); err != nil {
		return err
	}
	if err := s.decoder.Close(); err != nil {
		return err
	}
	if s.fields != [2]string{"200", "HTTP/2.0"} {
		return fmt.Errorf("the answer has status %q and the origin was asked in %q", s.fields[0], s.fields[1])
	}
	slot.headers = true
	return nil
}

func (s *streamer) end(slot *slot) error {
	if slot.got != len(s.want) {
		return fmt.Errorf("the answer ends after %d bytes", slot.got)
	}
	if s.record {
		s.times = append(s.times, time.Since(slot.begin))
	}
	slot.id = 0
	s.open--
	return nil
}

// multiplex measures many small requests at a time on few connections.
func (j *job) multiplex(ready func() error) (result, error) {
	d := &dialer{job: j, protocol: "h2"}
	streamers := make([]*streamer, j.Connections)
	for i := range streamers {
		conn, err := d.open(j.Name)
		if err != nil {
			return result{}, err
		}
		defer conn.Close()
		streamers[i] = newStreamer(conn, j.Name, j.Streams, []byte(small()))
	}
	load := func(window time.Duration, record bool) error {
		var group sync.WaitGroup
		errs := make([]error, len(streamers))
		for i, s := range streamers {
			group.Go(func() { errs[i] = s.load(window, record) })
		}
		group.Wait()
		return errors.Join(errs...)
	}
	wall, err := j.warmed(load, ready)
	if err != nil {
		return result{}, err
	}
	times, all := make([][]time.Duration, len(streamers)), 0
	for i, s := range streamers {
		times[i] = s.times
		all += s.all
	}
	r, err := summary(times, wall)
	r.All, r.TLS = all, d.seen
	return r, err
}
