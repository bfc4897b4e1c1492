package filter

import (
	"io"

	"sallyport/pkg/exchange"
)

// A replay is a body of which the beginning was read already: it stands in
// data, and src goes on behind it.
type replay struct {
	exchange.Bytes
	src exchange.Body
	// whole says that data is all.
	whole bool
	moved bool // something of src was read
}

func newReplay(data []byte, src exchange.Body, whole bool) *replay {
	return &replay{Bytes: *exchange.NewBytes(data), src: src, whole: whole}
}

// Read implements exchange.Body.
func (b *replay) Read(p []byte) (int, error) {
	n, err := b.Bytes.Read(p)
	if err == io.EOF && !b.whole {
		b.moved = true
		return b.src.Read(p)
	}
	return n, err
}

// Buffered implements exchange.Body.
func (b *replay) Buffered() ([]byte, bool) {
	p, _ := b.Bytes.Buffered()
	return p, b.whole
}

// Rewind implements exchange.Body.
func (b *replay) Rewind() bool { return !b.moved && b.Bytes.Rewind() }

// Interrupt implements exchange.Body: a read of memory never waits.
func (b *replay) Interrupt() {
	if !b.whole {
		b.src.Interrupt()
	}
}

// Complete implements exchange.Body.
func (b *replay) Complete() bool { return b.src.Complete() }

// Transferred implements exchange.Body: what came off the wire.
func (b *replay) Transferred() int64 { return b.src.Transferred() }
