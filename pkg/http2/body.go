package http2

import (
	"io"

	"sallyport/pkg/exchange"
)

// chunkSize is the memory in which content is kept, in bytes: a whole DATA
// frame.
const chunkSize = maxFrame

// A chunk holds content; b[r:w] is unread.
type chunk struct {
	next *chunk
	r, w int
	b    [chunkSize]byte
}

func (c *Codec) getChunk() *chunk {
	c.held.Add(chunkSize)
	if k, ok := c.chunks.Get().(*chunk); ok {
		return k
	}
	return new(chunk)
}

func (c *Codec) putChunk(k *chunk) {
	c.held.Add(-chunkSize)
	k.next, k.r, k.w = nil, 0, 0
	c.chunks.Put(k)
}

// A body is the content that a stream brings. What came and was not read yet
// stands in chunks; there is never more of it than the stream's window.
type body struct {
	s           *stream
	first, last *chunk
	unread      int
	// count is what was read; high the most that was ever read, which is less
	// after Rewind.
	count, high int64
	// trailer is where the trailer section goes once the end was reached.
	trailer *exchange.Header
	request bool
	// moved: something that was read is not in memory any more.
	moved bool
	// ended: the clean end came.
	ended bool
	// dead: nobody reads any more.
	dead bool
	err  error
}

var _ exchange.Body = (*body)(nil)

// put keeps content that came. The lock is held, as in all methods with a lower
// case name.
func (b *body) put(p []byte) {
	codec := b.s.c.codec
	b.unread += len(p)
	for len(p) > 0 {
		if b.last == nil {
			b.first = codec.getChunk()
			b.last = b.first
		} else if b.last.w == chunkSize {
			b.last.next = codec.getChunk()
			b.last = b.last.next
		}
		n := copy(b.last.b[b.last.w:], p)
		b.last.w += n
		p = p[n:]
	}
	b.shift()
}

// finish takes note of the clean end.
func (b *body) finish() {
	if b.err == nil {
		b.ended = true
	}
}

// fail ends the body unless it ended already.
func (b *body) fail(err error) {
	if !b.ended && b.err == nil {
		b.err = err
	}
}

// end gives the reader's error at the end of what is here, and passes the
// trailer section on.
func (b *body) end() error {
	if t := b.s.trailer; t != nil && b.ended {
		b.s.trailer = nil
		t.trailer(b.trailer, b.request)
		b.s.c.codec.putBlock(t)
	}
	if b.ended {
		return io.EOF
	}
	return b.err
}

// shift drops chunks that were read. The last one stays for Rewind until more
// comes or is waited for.
func (b *body) shift() {
	for b.first != nil && b.first.r == b.first.w && b.first.next != nil {
		k := b.first
		b.first, b.moved = k.next, true
		b.s.c.codec.putChunk(k)
	}
}

// consume takes n bytes out of the first chunk.
func (b *body) consume(n int) {
	b.first.r += n
	b.unread -= n
	b.count += int64(n)
	b.shift()
	if fresh := b.count - b.high; fresh > 0 {
		b.high = b.count
		b.s.credit(int(fresh))
	}
}

// await returns when content, the end or an error is here. A stream that waits
// for hours holds no memory.
func (b *body) await() {
	for b.unread == 0 && !b.ended && b.err == nil {
		if b.first != nil {
			b.s.c.codec.putChunk(b.first)
			b.first, b.last, b.moved = nil, nil, true
		}
		b.s.rcond.Wait()
	}
}

// free gives all memory back; what was not read is thrown away.
func (b *body) free() {
	if b.dead {
		return
	}
	b.dead, b.moved = true, true
	b.fail(ErrClosed)
	for k := b.first; k != nil; {
		next := k.next
		b.s.c.codec.putChunk(k)
		k = next
	}
	b.first, b.last = nil, nil
	if b.unread > 0 {
		n := b.unread
		b.unread = 0
		if w := min(n, b.s.c.withheld); w > 0 {
			b.s.c.withheld -= w
			b.s.c.giveBack(w)
		}
	}
	if b.s.trailer != nil {
		b.s.c.codec.putBlock(b.s.trailer)
		b.s.trailer = nil
	}
}

// Read implements exchange.Body.
func (b *body) Read(p []byte) (int, error) {
	c := b.s.c
	c.mu.Lock()
	defer c.unlock()
	if len(p) == 0 {
		return 0, nil
	}
	b.await()
	if b.unread == 0 {
		return 0, b.end()
	}
	n := 0
	for n < len(p) && b.unread > 0 {
		k := copy(p[n:], b.first.b[b.first.r:b.first.w])
		b.consume(k)
		n += k
	}
	return n, nil
}

// Buffered implements exchange.Body.
func (b *body) Buffered() ([]byte, bool) {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	return b.buffered()
}

func (b *body) buffered() ([]byte, bool) {
	if b.unread == 0 {
		return nil, b.end() == io.EOF
	}
	k := b.first
	p := k.b[k.r:k.w:k.w]
	return p, len(p) == b.unread && b.ended && b.end() == io.EOF
}

// next waits for content, or the end, and gives it as Buffered does; more says
// that further content is here.
func (b *body) next() (p []byte, last, more bool, err error) {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	b.await()
	if p, last = b.buffered(); len(p) == 0 && !last {
		return nil, false, false, b.end()
	}
	return p, last, len(p) < b.unread, nil
}

// Discard implements exchange.Body.
func (b *body) Discard(n int) {
	if n == 0 {
		return
	}
	b.s.c.mu.Lock()
	defer b.s.c.unlock()
	if b.dead {
		return
	}
	if n < 0 || n > b.first.w-b.first.r {
		panic("http2: discard of bytes that are not buffered")
	}
	b.consume(n)
}

// Rewind implements exchange.Body.
func (b *body) Rewind() bool {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	if b.moved {
		return false
	}
	if b.first != nil {
		b.unread += b.first.r
		b.first.r = 0
	}
	b.count = 0
	return true
}

// Interrupt implements exchange.Body. The connection goes on.
func (b *body) Interrupt() {
	b.s.c.mu.Lock()
	b.fail(exchange.ErrInterrupted)
	b.s.rcond.Broadcast()
	b.s.c.mu.Unlock()
}

// Complete implements exchange.Body.
func (b *body) Complete() bool {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	return b.ended
}

// Transferred implements exchange.Body.
func (b *body) Transferred() int64 {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	return b.count
}
