package websocket

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// frame makes a frame; key nil leaves it unmasked.
func frame(first byte, payload []byte, key []byte) []byte {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n <= 125:
		b[1] = byte(n)
	case n <= 0xffff:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if key == nil {
		return append(b, payload...)
	}
	b[1] |= 0x80
	b = append(b, key...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

const fin = 0x80

var mask = []byte{0x37, 0xfa, 0x21, 0x3d}

func joined(frames ...[]byte) []byte { return slices.Concat(frames...) }

// TestCounter goes through sections 5.2 to 5.5, each stream in one piece and
// byte by byte.
func TestCounter(t *testing.T) {
	code := func(n uint16, reason string) []byte { return append(binary.BigEndian.AppendUint16(nil, n), reason...) }
	for _, tt := range []struct {
		name             string
		in               []byte
		messages, frames uint64
		code             uint16
		closed, lost     bool
	}{
		{name: "nothing"},
		{name: "the RFC's unmasked Hello (5.7)", in: []byte{0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}, messages: 1, frames: 1},
		{name: "the RFC's masked Hello (5.7)", in: []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}, messages: 1, frames: 1},
		{name: "the RFC's fragmented Hello (5.7)", in: []byte{0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f}, messages: 1, frames: 2},
		{name: "binary and empty", in: joined(frame(fin|opBinary, make([]byte, 4), mask), frame(fin|opText, nil, mask), frame(fin|opText, nil, nil)), messages: 3, frames: 3},
		{name: "16-bit length", in: frame(fin|opBinary, make([]byte, 256), nil), messages: 1, frames: 1},
		{name: "64-bit length, masked", in: frame(fin|opBinary, make([]byte, 70000), mask), messages: 1, frames: 1},
		{name: "a frame that has not ended", in: frame(fin|opBinary, make([]byte, 300), mask)[:200]},
		{name: "ping within a fragmented message", in: joined(frame(opText, []byte("a"), mask), frame(fin|opPing, []byte("p"), mask), frame(opContinuation, []byte("b"), mask), frame(fin|opPong, nil, mask), frame(fin|opContinuation, []byte("c"), mask)), messages: 1, frames: 5},
		{name: "compressed (RSV1, RFC 7692)", in: joined(frame(fin|0x40|opText, []byte{0xf2, 0x48}, mask), frame(0x40|opBinary, []byte{1}, mask), frame(fin|opContinuation, []byte{2}, mask)), messages: 2, frames: 3},
		{name: "close with code and reason", in: frame(fin|opClose, code(1001, "going away"), mask), frames: 1, code: 1001, closed: true},
		{name: "close of a server", in: joined(frame(fin|opText, []byte("x"), nil), frame(fin|opClose, code(4999, ""), nil)), messages: 1, frames: 2, code: 4999, closed: true},
		{name: "close without a code", in: frame(fin|opClose, nil, mask), frames: 1, code: NoStatus, closed: true},
		{name: "what follows a close is no frame", in: joined(frame(fin|opClose, code(1000, ""), mask), []byte{0x07, 0x00}, frame(fin|opText, []byte("x"), mask)), frames: 1, code: 1000, closed: true},
		{name: "close within a message", in: joined(frame(opText, []byte("a"), mask), frame(fin|opClose, code(1011, ""), mask)), frames: 2, code: 1011, closed: true},

		{name: "reserved opcode", in: joined(frame(fin|opText, []byte("x"), nil), frame(fin|0x3, nil, nil), frame(fin|opText, []byte("y"), nil)), messages: 1, frames: 1, lost: true},
		{name: "reserved control opcode", in: frame(fin|0xb, nil, nil), lost: true},
		{name: "continuation of nothing", in: frame(fin|opContinuation, []byte("x"), nil), lost: true},
		{name: "message within a message", in: joined(frame(opText, []byte("a"), nil), frame(fin|opText, []byte("b"), nil)), frames: 1, lost: true},
		{name: "fragmented control frame", in: frame(opPing, nil, nil), lost: true},
		{name: "control frame over 125", in: frame(fin|opPing, make([]byte, 126), nil), lost: true},
		{name: "close of one byte", in: frame(fin|opClose, []byte{3}, nil), lost: true},
		{name: "16-bit length that fits 7 bits", in: append([]byte{fin | opText, 126, 0, 125}, make([]byte, 125)...), lost: true},
		{name: "64-bit length that fits 16 bits", in: append([]byte{fin | opText, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, make([]byte, 0xffff)...), lost: true},
		{name: "length of 63 bits", in: []byte{fin | opText, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}},
		{name: "length of 64 bits", in: []byte{fin | opText, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, lost: true},
		{name: "HTTP", in: []byte("GET / HTTP/1.1\r\n"), lost: true},
		{name: "TLS", in: []byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0}, lost: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{len(tt.in) + 1, 1, 3, 13, 14} {
				var c Counter
				for p := tt.in; len(p) > 0; {
					n := min(size, len(p))
					c.write(p[:n])
					p = p[n:]
				}
				if c.Messages() != tt.messages || c.frames != tt.frames || c.status != tt.code || c.closed != tt.closed || c.lost != tt.lost {
					t.Errorf("pieces of %d: messages %d, frames %d, code %d, closed %v, lost %v", size,
						c.Messages(), c.frames, c.status, c.closed, c.lost)
				}
			}
		})
	}
}

func TestFirstFrame(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want bool
	}{
		{"masked text", frame(fin|opText, []byte("hello"), mask), true},
		{"the first byte of one", frame(fin|opText, []byte("hello"), mask)[:1], true},
		{"ping", frame(fin|opPing, nil, mask), true},
		{"not masked", frame(fin|opText, []byte("hello"), nil), false},
		{"second frame not masked", joined(frame(fin|opText, nil, mask), frame(fin|opText, nil, nil)), true},
		{"second frame broken", joined(frame(fin|opText, nil, mask), []byte("GET / HTTP/1.1\r\n\r\n")), true},
		{"HTTP with a method whose first byte opens a frame", []byte("ABC / HTTP/1.1\r\n\r\n"), false},
		{"HTTP", []byte("POST / HTTP/1.1\r\n\r\n"), false},
		{"HTTP/2", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), false},
		{"TLS", []byte{0x16, 0x03, 0x01, 0x02}, false},
	} {
		for _, size := range []int{len(tt.in), 1} {
			var s Session
			ok := true
			for p := range slices.Chunk(tt.in, size) {
				ok = ok && s.FromClient(p)
			}
			if ok != tt.want {
				t.Errorf("%s in pieces of %d: %v, want %v", tt.name, size, ok, tt.want)
			}
		}
	}
}

func TestSessionCloseCode(t *testing.T) {
	closing := func(n uint16, key []byte) []byte {
		return frame(fin|opClose, binary.BigEndian.AppendUint16(nil, n), key)
	}
	var s Session
	if s.CloseCode() != Abnormal {
		t.Errorf("without Close: %d", s.CloseCode())
	}
	s.FromServer(closing(1012, nil))
	s.FromClient(closing(1000, mask))
	if s.CloseCode() != 1012 {
		t.Errorf("the first of two: %d", s.CloseCode())
	}
	s = Session{}
	s.FromClient(frame(fin|opClose, nil, mask))
	if s.CloseCode() != NoStatus {
		t.Errorf("without code: %d", s.CloseCode())
	}
	s = Session{}
	s.FromServer([]byte{0x0f, 0})
	if s.CloseCode() != 0 {
		t.Errorf("framing left: %d", s.CloseCode())
	}
}

// FuzzCounter: however the stream is cut, the result is the same, and nothing
// is counted that did not pass.
func FuzzCounter(f *testing.F) {
	f.Add(frame(fin|opText, []byte("hello"), mask), uint16(1))
	f.Add(joined(frame(opBinary, make([]byte, 300), mask), frame(fin|opPing, nil, mask), frame(fin|opContinuation, []byte("x"), mask)), uint16(7))
	f.Add(frame(fin|opClose, []byte{3, 0xe8, 'b', 'y', 'e'}, nil), uint16(2))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(4))
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}, uint16(3))
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		var whole, pieces Counter
		before := bytes.Clone(in)
		whole.write(in)
		for p := in; len(p) > 0; {
			n := min(int(cut%64)+1, len(p))
			pieces.write(p[:n])
			p = p[n:]
		}
		if !bytes.Equal(before, in) {
			t.Fatal("the bytes were changed")
		}
		if whole.messages != pieces.messages || whole.frames != pieces.frames || whole.status != pieces.status ||
			whole.lost != pieces.lost || whole.closed != pieces.closed || whole.bare != pieces.bare {
			t.Fatalf("whole %+v, in pieces %+v", whole, pieces)
		}
		if whole.messages > whole.frames || whole.frames > uint64(len(in))/shortHeader {
			t.Fatalf("counted %+v in %d bytes", whole, len(in))
		}
	})
}

func BenchmarkCounter(b *testing.B) {
	for _, bb := range []struct {
		name string
		size int
	}{{"64", 64}, {"1KB", 1 << 10}, {"64KB", 64 << 10}} {
		b.Run(bb.name, func(b *testing.B) {
			one := frame(fin|opBinary, make([]byte, bb.size), mask)
			stream := bytes.Repeat(one, max(1, (64<<10)/len(one)))
			var c Counter
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				for p := range slices.Chunk(stream, 16<<10) {
					c.write(p)
				}
			}
			if c.lost {
				b.Fatal("framing lost")
			}
		})
	}
}
