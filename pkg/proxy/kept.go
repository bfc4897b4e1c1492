package proxy

import (
	"sync/atomic"

	"sallyport/pkg/exchange"
)

// What may be kept of the bodies of requests that may be tried again, in bytes:
// of one, of those of all, and of those of one workload. A body for which there
// is no room is sent once.
const (
	maxKept         = 64 << 10
	maxKeptAll      = 64 << 20
	maxKeptWorkload = 16 << 20
)

// A kept body remembers what was read of it, so that it can be sent again. The
// codecs remember only what came together with the head.
type kept struct {
	exchange.Body
	// own and all count what is kept for the workload and for all.
	own, all *atomic.Int64
	buf      []byte
	// off is where the reader is in buf; at its end it reads on.
	off  int
	over bool
}

var _ exchange.Body = (*kept)(nil)

// keep remembers what was read beyond buf.
func (k *kept) keep(p []byte) {
	switch {
	case k.over:
	case len(p) == 0:
	case len(k.buf)+len(p) > maxKept, !reserve(k.own, k.all, int64(len(p)), maxKeptWorkload, maxKeptAll):
		k.drop()
	default:
		k.buf = append(k.buf, p...)
		k.off = len(k.buf)
	}
}

// drop forgets what was kept: the body cannot be sent again.
func (k *kept) drop() {
	release(k.own, k.all, int64(len(k.buf)))
	k.over, k.buf, k.off = true, nil, 0
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
