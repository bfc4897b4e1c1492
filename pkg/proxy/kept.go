package proxy

import "sallyport/pkg/exchange"

// maxKept bounds what is kept of the body of a request that may be tried again,
// in bytes. A longer body is sent once.
const maxKept = 64 << 10

// A kept body remembers what was read of it, so that it can be sent again. The
// codecs remember only what came together with the head.
type kept struct {
	exchange.Body
	buf []byte
	// off is where the reader is in buf; at its end it reads on.
	off  int
	over bool
}

var _ exchange.Body = (*kept)(nil)

// keep remembers what was read beyond buf.
func (k *kept) keep(p []byte) {
	switch {
	case k.over:
	case len(k.buf)+len(p) > maxKept:
		k.over, k.buf, k.off = true, nil, 0
	default:
		k.buf = append(k.buf, p...)
		k.off = len(k.buf)
	}
}

// Read implements exchange.Body.
func (k *kept) Read(p []byte) (int, error) {
	if k.off < len(k.buf) {
		n := copy(p, k.buf[k.off:])
		k.off += n
		return n, nil
	}
	n, err := k.Body.Read(p)
	k.keep(p[:n])
	return n, err
}

// Buffered implements exchange.Body.
func (k *kept) Buffered() ([]byte, bool) {
	p, last := k.Body.Buffered()
	if k.off < len(k.buf) {
		return k.buf[k.off:], last && len(p) == 0
	}
	return p, last
}

// Discard implements exchange.Body.
func (k *kept) Discard(n int) {
	if k.off < len(k.buf) {
		k.off += n
		return
	}
	p, _ := k.Body.Buffered()
	k.keep(p[:n])
	k.Body.Discard(n)
}

// Rewind implements exchange.Body.
func (k *kept) Rewind() bool {
	if k.over {
		return false
	}
	k.off = 0
	return true
}
