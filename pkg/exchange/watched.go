package exchange

import "io"

// A Watcher sees a body pass by.
type Watcher interface {
	// Watch is given the next bytes of the body, each once and in order; last
	// says that it ends cleanly with them. It keeps nothing of p. An error, which
	// may be a *Refusal, ends the body in the place of these bytes.
	Watch(p []byte, last bool) error
}

// Watch gives a body that shows w what is read of src and passes it on without
// copying. A body that is started anew (Rewind) is not shown twice.
func Watch(src Body, w Watcher) Body { return &watched{src: src, w: w} }

type watched struct {
	src Body
	w   Watcher
	// pos is where the reader is, seen how far w has looked.
	pos, seen int64
	ended     bool
	err       error
}

// look shows w the bytes at pos that it has not seen.
func (b *watched) look(p []byte, last bool) error {
	fresh := p
	if known := b.seen - b.pos; known > 0 {
		fresh = p[min(known, int64(len(p))):]
	}
	if b.ended || len(fresh) == 0 && !last {
		return nil
	}
	b.seen += int64(len(fresh))
	b.ended = last
	b.err = b.w.Watch(fresh, last)
	return b.err
}

// Read implements Body.
func (b *watched) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	if werr := b.look(p[:n], err == io.EOF); werr != nil {
		return 0, werr
	}
	b.pos += int64(n)
	return n, err
}

// Buffered implements Body: nothing where w objects, which Read then tells.
func (b *watched) Buffered() ([]byte, bool) {
	if b.err != nil {
		return nil, false
	}
	p, last := b.src.Buffered()
	if b.look(p, last) != nil {
		return nil, false
	}
	return p, last
}

// Discard implements Body.
func (b *watched) Discard(n int) {
	b.src.Discard(n)
	b.pos += int64(n)
}

// Rewind implements Body.
func (b *watched) Rewind() bool {
	if b.err != nil || !b.src.Rewind() {
		return false
	}
	b.pos = 0
	return true
}

// Interrupt implements Body.
func (b *watched) Interrupt() { b.src.Interrupt() }

// Complete implements Body.
func (b *watched) Complete() bool { return b.src.Complete() }

// Transferred implements Body: what came off the wire.
func (b *watched) Transferred() int64 { return b.src.Transferred() }
