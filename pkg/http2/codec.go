// Package http2 is the HTTP/2 codec of the data path (RFC 9113): bytes to
// exchange types and back, for many streams at a time. Flow control holds end
// to end: a body is asked for only as fast as it is read, so a slow reader
// stops its sender and nothing piles up between them.
package http2

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on what one peer may make us hold or do.
const (
	// maxFrame is the longest payload that we read, in bytes; it is the least
	// that RFC 9113 section 4.2 allows, and what most peers send.
	maxFrame = 16 << 10
	// maxList bounds a header list as RFC 9113 section 6.5.2 counts it: names
	// and values in bytes, and 32 for each field.
	maxList = 64 << 10
	// maxFields bounds the fields of a header list.
	maxFields = 256
	// maxTrailerFields bounds those of a trailer section.
	maxTrailerFields = 64
	// maxBlock bounds a header block as it comes, in bytes, and
	// maxContinuations the frames that carry it on.
	maxBlock         = maxList + maxFrame
	maxContinuations = 32
	// maxInformational bounds the 1xx responses before the final one, and
	// maxQueuedInformational those that wait for their reader.
	maxInformational       = 100
	maxQueuedInformational = 8
	// tableSize bounds either dynamic table of HPACK, in bytes: the default of
	// RFC 9113 section 6.5.2.
	tableSize = 4 << 10
	// defaultMaxStreams bounds the streams that a client may have open.
	defaultMaxStreams = 128
	// maxOpened bounds the streams that we have open at a server, whatever it
	// allows; assumedStreams is what we open before it has said.
	maxOpened      = 256
	assumedStreams = 100
	// maxControl bounds the answers that wait for a peer which does not read:
	// acknowledgements, resets and window updates, in frames.
	maxControl = 4096
	// maxPending is how much may wait to be written before senders wait, in
	// bytes.
	maxPending = 64 << 10
	// stallTime is how long a peer may keep its windows shut while something
	// waits for it, and how long a client may take none of our bytes.
	stallTime = time.Minute
	// serverWriteTime is how long a server may take none of our bytes. Windows
	// are for slow readers: one that leaves its socket unread is broken, and
	// who waits in a write cannot be cancelled.
	serverWriteTime = 20 * time.Second
	// drainTime is how long a client has to answer the PING of a graceful end,
	// before its later streams are refused.
	drainTime = time.Second
	// lingerTime and maxLinger bound how long, and for how many bytes, a
	// connection that we end is read on: a close with unread input resets it
	// and can destroy what the peer should still get.
	lingerTime = time.Second
	maxLinger  = 256 << 10
	// discardTime and maxDiscard bound how long, and for how many bytes, the rest
	// of a request is taken that was answered early.
	discardTime = time.Second
	maxDiscard  = 256 << 10
	// workerTime is how long a goroutine without a stream is kept for the next
	// one.
	workerTime = 2 * time.Second
)

// Windows, in bytes.
const (
	// initialWindow is that of RFC 9113 section 6.9.2, which we do not change.
	initialWindow = 1<<16 - 1
	// maxStreamWindow is what a stream's window grows to while its reader keeps
	// up and the memory for it is not given out elsewhere.
	maxStreamWindow = 1 << 20
	// connWindow is what a connection may have on its way to us.
	connWindow = 1 << 20
	// maxWindow is the largest that a peer may give us (RFC 9113 section
	// 6.9.1).
	maxWindow = 1<<31 - 1
)

// budget is the memory for bodies that were received and not read yet, and
// apart from it for windows that have grown, in bytes. Over it connections are
// credited only with what is read, and no window grows.
const budget = 256 << 20

// A Codec makes connections that share lent memory and bounds. One serves a
// whole process; the zero value is ready. It must not be copied after first
// use.
type Codec struct {
	chunks  sync.Pool
	inputs  sync.Pool
	outputs sync.Pool
	blocks  sync.Pool
	streams sync.Pool

	counters counters
	held     atomic.Int64 // bytes of chunks that hold content
	grown    atomic.Int64 // bytes by which windows exceed initialWindow
}

// Usage gives how full the codec's shared memory is, in bytes.
type Usage struct {
	Held, Grown int64
	// Capacity bounds each of both.
	Capacity int64
}

// Usage gives how full the codec's shared memory is.
func (c *Codec) Usage() Usage {
	return Usage{Held: c.held.Load(), Grown: c.grown.Load(), Capacity: budget}
}
