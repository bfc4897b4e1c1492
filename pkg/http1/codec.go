// Package http1 is the HTTP/1.1 codec of the data path (RFC 9112): bytes to
// exchange types and back. It is strict on both sides: framing that two
// parsers could read differently is refused, and what is forwarded is written
// anew from what was understood, never copied.
package http1

import (
	"sync"
	"time"
	"unsafe"
)

// Bounds on what one message may make us hold or do.
const (
	// maxHead bounds a header section with its first line, in bytes.
	maxHead = 64 << 10
	// maxFields bounds the field lines of a header section.
	maxFields = 256
	// maxNominations bounds the options in Connection, each of which is
	// compared with every field.
	maxNominations = 32
	// maxChunkLine bounds a chunk's size and extensions, in bytes.
	maxChunkLine = 4 << 10
	// maxExtensions bounds the chunk extensions of a whole body, in bytes:
	// they are thrown away and must not be most of the work.
	maxExtensions = 64 << 10
	// maxTrailer bounds a trailer section, in bytes.
	maxTrailer = 16 << 10
	// maxTrailerFields bounds the field lines of a trailer section.
	maxTrailerFields = 64
	// maxInformational bounds the 1xx responses before the final one.
	maxInformational = 100
	// maxDrain is the most of a refused request's body that is read so that
	// the connection can go on, in bytes.
	maxDrain = 64 << 10
	// drainTime bounds how long that reading may take.
	drainTime = time.Second
	// lingerTime bounds how long input is read and thrown away before a close,
	// which with unread input resets the connection and can destroy the response
	// on its way (RFC 9112 section 9.6). It is that of nginx.
	lingerTime = 30 * time.Second
	// lingerWait bounds each wait for such input.
	lingerWait = 2 * time.Second
	// lingerPause follows each lingerPart of it in bytes, so that nobody keeps us
	// busy with what is thrown away: some 50 MB/s.
	lingerPart  = 256 << 10
	lingerPause = 5 * time.Millisecond
	// lastWriteTime bounds the wait for the last write of a request body whose
	// response is complete already.
	lastWriteTime = 100 * time.Millisecond
)

// Sizes of lent memory, in bytes.
const (
	// arenaSize holds the heads and first body bytes of several exchanges, and
	// one whole TLS record.
	arenaSize = 16 << 10
	// arenaRoom is the least room worth reading into: most heads fit.
	arenaRoom = 2 << 10
	// writeSize is the most that one write carries: a full TLS record, so that
	// a head and its first body bytes leave together.
	writeSize = 16 << 10
)

// A Codec makes connections that share lent memory. One serves a whole
// process; the zero value is ready. It must not be copied after first use.
type Codec struct {
	arenas  sync.Pool
	buffers sync.Pool
}

// An arena is memory into which a connection reads. Bytes below frozen are the
// text of messages that were parsed: strings point into them, so they are
// never written again, not even when another connection takes the arena over.
// Bytes from frozen on are free for the owner. Parsing so needs no copy and
// hardly an allocation, and its strings are safe to keep.
type arena struct {
	buf    []byte
	frozen int
}

func (c *Codec) getArena() *arena {
	if a, ok := c.arenas.Get().(*arena); ok {
		return a
	}
	return &arena{buf: make([]byte, arenaSize)}
}

// putArena takes an arena back if its rest is of use to the next borrower.
func (c *Codec) putArena(a *arena) {
	if len(a.buf) == arenaSize && arenaSize-a.frozen >= arenaRoom {
		c.arenas.Put(a)
	}
}

// freeze gives the bytes as a string without copying them. They must lie below
// the frozen mark of their arena, or never be written again for another reason.
func freeze(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

type writeBuffer struct{ b [writeSize]byte }

func (c *Codec) getBuffer() *writeBuffer {
	if b, ok := c.buffers.Get().(*writeBuffer); ok {
		return b
	}
	return new(writeBuffer)
}

func (c *Codec) putBuffer(b *writeBuffer) { c.buffers.Put(b) }
