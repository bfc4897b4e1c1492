package exchange

import (
	"errors"
	"fmt"
	"io"
)

// A Body is the content of a message as a stream. One goroutine reads it;
// Interrupt and Complete may be called from any.
type Body interface {
	// Read gives the next bytes as soon as some are here. At the clean end,
	// and only there, it gives io.EOF; a body that was cut gives another error,
	// io.ErrUnexpectedEOF where the connection ended.
	io.Reader
	// Buffered gives bytes that can be had without waiting, possibly none, and
	// whether the body ends cleanly with them. The slice is good until the next
	// call of any method.
	Buffered() (p []byte, last bool)
	// Discard consumes n bytes that Buffered gave.
	Discard(n int)
	// Rewind makes the body start anew, where all that was read of it is still
	// in memory, and reports whether it could: short bodies that came with
	// their head can be sent twice or looked at after sending.
	Rewind() bool
	// Interrupt makes a blocked Read, and every later one that would wait,
	// return an error.
	Interrupt()
	// Complete reports whether the clean end has come off the wire.
	Complete() bool
	// Transferred gives the bytes of content that were read so far.
	Transferred() int64
}

// A SourceError is a failure to read a body: the sender of the message cut it
// or broke its framing. The other side must not see a clean end.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return fmt.Sprintf("read body: %v", e.Err) }

// Unwrap gives the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// A SinkError is a failure to write a message: its recipient is gone.
type SinkError struct{ Err error }

func (e *SinkError) Error() string { return fmt.Sprintf("write message: %v", e.Err) }

// Unwrap gives the cause.
func (e *SinkError) Unwrap() error { return e.Err }

// Bytes is a Body in memory, for what sallyport says itself. The zero value is
// an empty body.
type Bytes struct {
	data []byte
	off  int
}

var _ Body = (*Bytes)(nil)

// NewBytes gives a body that holds data, which must not change while it is
// read.
func NewBytes(data []byte) *Bytes { return &Bytes{data: data} }

// Read implements Body.
func (b *Bytes) Read(p []byte) (int, error) {
	if b.off == len(b.data) {
		return 0, io.EOF
	}
	n := copy(p, b.data[b.off:])
	b.off += n
	return n, nil
}

// Buffered implements Body: all that is left, always the last.
func (b *Bytes) Buffered() ([]byte, bool) { return b.data[b.off:], true }

// Discard implements Body.
func (b *Bytes) Discard(n int) { b.off += n }

// Rewind implements Body; it always can.
func (b *Bytes) Rewind() bool {
	b.off = 0
	return true
}

// Interrupt implements Body; a read of memory never waits.
func (b *Bytes) Interrupt() {}

// Complete implements Body.
func (b *Bytes) Complete() bool { return true }

// Transferred implements Body.
func (b *Bytes) Transferred() int64 { return int64(b.off) }

// ErrTooLarge is a body that exceeds the bound of whoever wanted it whole.
var ErrTooLarge = errors.New("body is larger than the bound")

// ReadAll gives the whole body, at most limit bytes, else ErrTooLarge.
func ReadAll(b Body, limit int) ([]byte, error) {
	p, last := b.Buffered()
	if len(p) > limit {
		return nil, ErrTooLarge
	}
	out := append(make([]byte, 0, max(len(p), 512)), p...)
	b.Discard(len(p))
	if last {
		return out, nil
	}
	for {
		if len(out) == cap(out) {
			out = append(out, 0)[:len(out)]
		}
		n, err := b.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case len(out) > limit:
			return nil, ErrTooLarge
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, &SourceError{err}
		}
	}
}
