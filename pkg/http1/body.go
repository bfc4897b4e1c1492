package http1

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"sallyport/pkg/exchange"
)

type bodyKind uint8

const (
	fixedBody bodyKind = iota
	chunkedBody
	untilCloseBody
)

// maxRead bounds one read of a chunked body, because what follows the body
// must be kept for the next message.
const maxRead = 16 << 10

// A body is the content of the message that a connection is carrying. What
// came with the head stands decoded in the reader's arena; the rest is read
// straight into the memory of whoever asks.
type body struct {
	rd      *reader
	kind    bodyKind
	request bool
	trailer *exchange.Header
	chunks  chunkDecoder
	remain  int64 // of a fixed body, in bytes, still on the wire
	// a.buf[from:to] is decoded and unread; start is where the body began.
	a               *arena
	start, from, to int
	intact          bool // all that was read is still in the arena
	count           int64
	ended           bool // the clean end has been decoded
	err             error

	touched, complete, interrupted atomic.Bool
}

var _ exchange.Body = (*body)(nil)

// begin makes the body that of the message whose head was just read. length is
// -1 for a chunked or close-delimited body.
func (b *body) begin(kind bodyKind, length int64, request bool, trailer *exchange.Header) {
	b.kind, b.request, b.trailer, b.remain = kind, request, trailer, max(length, 0)
	b.chunks = chunkDecoder{}
	b.a, b.intact, b.count, b.ended, b.err = b.rd.a, true, 0, false, nil
	b.touched.Store(false)
	b.complete.Store(false)
	b.interrupted.Store(false)
	b.absorb()
}

// absorb decodes what was read together with the head.
func (b *body) absorb() {
	rd := b.rd
	b.start, b.from, b.to = rd.r, rd.r, rd.r
	here := rd.a.unread(rd)
	if len(here) > 0 {
		b.touched.Store(true)
	}
	switch b.kind {
	case fixedBody:
		n := min(b.remain, int64(len(here)))
		rd.r += int(n)
		b.to = rd.r
		b.remain -= n
		if b.remain == 0 {
			b.end()
		}
	case chunkedBody:
		n, used, err := b.chunks.decode(here)
		rd.r += used
		b.to = b.start + n
		b.decoded(err)
	case untilCloseBody:
		rd.r = rd.w
		b.to = rd.r
	}
}

// decoded takes note of what the chunk decoder found.
func (b *body) decoded(err error) {
	if err == nil && b.chunks.state == chunkDone {
		if err = b.chunks.trailer(b.trailer, b.request); err == nil {
			b.end()
			return
		}
		b.trailer.Reset()
	}
	b.err = err
}

func (b *body) end() {
	b.ended = true
	b.complete.Store(true)
}

// Buffered implements exchange.Body.
func (b *body) Buffered() ([]byte, bool) {
	if b.from == b.to {
		return nil, b.ended
	}
	return b.a.buf[b.from:b.to:b.to], b.ended
}

// Discard implements exchange.Body.
func (b *body) Discard(n int) {
	if n < 0 || n > b.to-b.from {
		panic("http1: discard of bytes that are not buffered")
	}
	b.from += n
	b.count += int64(n)
}

// Rewind implements exchange.Body.
func (b *body) Rewind() bool {
	if !b.intact {
		return false
	}
	b.from, b.count = b.start, 0
	return true
}

// Interrupt implements exchange.Body. It spoils the read deadline of the
// connection, which has no further message after it.
func (b *body) Interrupt() {
	b.interrupted.Store(true)
	// A connection that cannot take a deadline is closed already.
	_ = b.rd.conn.SetReadDeadline(time.Unix(1, 0))
}

// Complete implements exchange.Body.
func (b *body) Complete() bool { return b.complete.Load() }

// Transferred implements exchange.Body.
func (b *body) Transferred() int64 { return b.count }

// Read implements exchange.Body.
func (b *body) Read(p []byte) (int, error) {
	if b.from < b.to {
		n := copy(p, b.a.buf[b.from:b.to])
		b.from += n
		b.count += int64(n)
		return n, nil
	}
	switch {
	case b.err != nil:
		return 0, b.err
	case b.ended:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	b.leaveArena()
	n, err := b.readDirect(p)
	b.count += int64(n)
	if err != nil && err != io.EOF {
		var timed net.Error
		if b.interrupted.Load() && errors.As(err, &timed) && timed.Timeout() {
			err = exchange.ErrInterrupted
		}
		b.err = err
	}
	return n, err
}

// leaveArena lets go of the arena: nothing in it belongs to the body any more,
// and a stream that lives for hours must not hold it.
func (b *body) leaveArena() {
	if b.a == nil {
		return
	}
	b.a, b.intact = nil, false
	b.start, b.from, b.to = 0, 0, 0
	b.rd.release()
}

// readDirect reads content into p; nothing is buffered.
func (b *body) readDirect(p []byte) (int, error) {
	switch b.kind {
	case fixedBody:
		if int64(len(p)) > b.remain {
			p = p[:b.remain]
		}
		n, err := b.readWire(p)
		if b.remain -= int64(n); b.remain == 0 {
			b.end()
		}
		return n, err
	case untilCloseBody:
		n, err := exchange.ReadSome(b.rd.conn, p)
		if err == io.EOF {
			b.end()
		}
		return n, err
	default:
		return b.readChunks(p[:min(len(p), maxRead)])
	}
}

func (b *body) readChunks(p []byte) (int, error) {
	for {
		n, err := b.readWire(p)
		if err != nil {
			return 0, err
		}
		content, used, err := b.chunks.decode(p[:n])
		if b.decoded(err); b.ended {
			b.rd.put(p[used:n])
		}
		switch {
		case content > 0:
			return content, nil
		case b.err != nil:
			return 0, b.err
		case b.ended:
			return 0, io.EOF
		}
	}
}

// readWire reads bytes of a body that has not ended: the end of the connection
// is never the end of the body.
func (b *body) readWire(p []byte) (int, error) {
	n, err := exchange.ReadSome(b.rd.conn, p)
	if n > 0 {
		b.touched.Store(true)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
