package exchange

import "io"

// A Transformer turns one body into another as it passes by.
type Transformer interface {
	// Transform appends to dst what is to be passed on after it has seen p, the
	// next bytes of the source; last says that the source ends cleanly with them,
	// and then nothing may be kept back. It keeps nothing of p. An error, which
	// may be a *Refusal, ends the body: what was appended before it is not passed
	// on.
	Transform(dst, p []byte, last bool) ([]byte, error)
}

// Transform gives a body that reads src through t. Whoever uses it sets the
// message's Length to UnknownLength, unless t keeps the length, and removes
// what no longer holds of its header. It cannot be started anew.
func Transform(src Body, t Transformer) Body { return &transformed{src: src, t: t} }

// transformStep is how much of the source is read at once.
const transformStep = 16 << 10

type transformed struct {
	src Body
	t   Transformer
	// out[off:] is to be read; ended says that nothing follows.
	out   []byte
	off   int
	in    []byte
	ended bool
	err   error
}

// take puts the next bytes of the source through t.
func (b *transformed) take(p []byte, last bool) {
	if b.off == len(b.out) {
		b.out, b.off = b.out[:0], 0
	}
	before := len(b.out)
	out, err := b.t.Transform(b.out, p, last)
	if err != nil {
		b.out, b.err = b.out[:before], err
		return
	}
	b.out, b.ended = out, last
}

// Read implements Body.
func (b *transformed) Read(p []byte) (int, error) {
	for b.off == len(b.out) {
		switch {
		case b.err != nil:
			return 0, b.err
		case b.ended:
			return 0, io.EOF
		}
		if b.in == nil {
			b.in = make([]byte, transformStep)
		}
		n, err := b.src.Read(b.in)
		if n > 0 || err == io.EOF {
			b.take(b.in[:n], err == io.EOF)
		}
		if err != nil && err != io.EOF && b.err == nil {
			b.err = err
		}
	}
	n := copy(p, b.out[b.off:])
	b.off += n
	return n, nil
}

// Buffered implements Body.
func (b *transformed) Buffered() ([]byte, bool) {
	if !b.ended && b.err == nil {
		if p, last := b.src.Buffered(); len(p) > 0 || last {
			b.take(p, last)
			b.src.Discard(len(p))
		}
	}
	return b.out[b.off:], b.ended
}

// Discard implements Body.
func (b *transformed) Discard(n int) { b.off += n }

// Rewind implements Body; it never can.
func (b *transformed) Rewind() bool { return false }

// Interrupt implements Body.
func (b *transformed) Interrupt() { b.src.Interrupt() }

// Complete implements Body: whether the source has come off the wire.
func (b *transformed) Complete() bool { return b.src.Complete() }

// Transferred implements Body: what came off the wire.
func (b *transformed) Transferred() int64 { return b.src.Transferred() }
