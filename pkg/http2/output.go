package http2

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"
)

const (
	// outputSize is what an output buffer begins with, in bytes; it grows to
	// what has to wait while another one is being written.
	outputSize = 16 << 10
	// maxOutputKept is the largest that is lent on.
	maxOutputKept = 128 << 10
	// maxRounds is how often a goroutine writes what others have appended
	// before it goes on with its own work.
	maxRounds = 4
	// tinyFrame is a DATA frame that only a tiny window makes so small.
	tinyFrame = 256
)

// An output gathers frames. Those that are appended while others are being
// written leave together with the next write: one system call, and over TLS one
// record, carries frames of many streams. No lock is held while writing.
type output struct {
	b []byte // nil: nothing is pending
	// control counts the pending frames that answer the peer.
	control int
	// flushing says that a goroutine writes, and will look here again.
	flushing bool
	// waiting counts the goroutines that wait for space.
	waiting int
	space   sync.Cond
	// err is why nothing can be written any more.
	err error
	// final: the write deadline is that of the connection's end.
	final bool
	// until, of who writes, is the write deadline that was set last.
	until time.Time
}

// output gives the pending bytes, to append to. The lock is held.
func (c *conn) output() []byte {
	if c.out.b == nil {
		c.out.b = c.codec.getOutput()
	}
	return c.out.b
}

func (c *Codec) getOutput() []byte {
	if p, ok := c.outputs.Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return make([]byte, 0, outputSize)
}

func (c *Codec) putOutput(b []byte) {
	if b != nil && cap(b) <= maxOutputKept {
		c.outputs.Put(&b)
	}
}

func (c *conn) dropOutput() {
	c.codec.putOutput(c.out.b)
	c.out.b = nil
}

// control takes note of one frame that answers the peer: one that makes us
// answer and does not read would have us keep its answers.
func (c *conn) control() {
	if c.out.control++; c.out.control == maxControl {
		c.die(&ConnError{EnhanceYourCalm, ControlQueue, "answers that the peer does not read"})
	}
}

func (c *conn) appendSettingsAck() {
	c.out.b = appendFrameHeader(c.output(), 0, frameSettings, flagAck, 0)
	c.control()
}

func (c *conn) appendPing(flags uint8, payload []byte) {
	c.out.b = append(appendFrameHeader(c.output(), 8, framePing, flags, 0), payload...)
	c.control()
}

func (c *conn) appendReset(id uint32, code Code) {
	b := appendFrameHeader(c.output(), 4, frameReset, 0, id)
	c.out.b = binary.BigEndian.AppendUint32(b, uint32(code))
	c.control()
}

func (c *conn) appendWindowUpdate(id uint32, n int) {
	b := appendFrameHeader(c.output(), 4, frameWindowUpdate, 0, id)
	c.out.b = binary.BigEndian.AppendUint32(b, uint32(n))
	c.control()
}

func (c *conn) appendGoAway(last uint32, code Code) {
	b := appendFrameHeader(c.output(), 8, frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	c.out.b = binary.BigEndian.AppendUint32(b, uint32(code))
}

// flushLocked has the pending frames written, by this goroutine or by the one
// that writes already, and lets go of the lock. It may wait for the peer.
func (c *conn) flushLocked() {
	if c.out.flushing || len(c.out.b) == 0 {
		c.unlock()
		return
	}
	c.out.flushing = true
	others := len(c.streams) > 1
	c.unlock()
	if others {
		// Others that are about to append do so first.
		runtime.Gosched()
	}
	c.write(maxRounds)
}

// flushSoon has the pending frames written without waiting. The lock is held.
func (c *conn) flushSoon() {
	if c.out.flushing || len(c.out.b) == 0 || c.out.final {
		return
	}
	c.out.flushing = true
	c.tasks.Add(1)
	go func() {
		defer c.tasks.Done()
		runtime.Gosched()
		c.write(0)
	}()
}

// write writes until nothing is pending; after that many rounds, unless 0, a
// goroutine of its own goes on.
func (c *conn) write(rounds int) {
	c.mu.Lock()
	for n := 0; ; n++ {
		if len(c.out.b) == 0 || c.out.err != nil {
			c.dropOutput()
			c.out.control = 0
			c.out.flushing = false
			if c.out.waiting > 0 {
				c.out.space.Broadcast()
			}
			c.unlock()
			return
		}
		if rounds > 0 && n == rounds && !c.out.final {
			c.out.flushing = false
			c.flushSoon()
			c.unlock()
			return
		}
		b, final := c.out.b, c.out.final
		c.out.b, c.out.control = nil, 0
		if c.out.waiting > 0 {
			c.out.space.Broadcast()
		}
		c.unlock()
		err := c.writeAll(b, final)
		c.codec.putOutput(b)
		c.mu.Lock()
		if err != nil {
			c.out.err = err
			if c.err == nil {
				c.fail(err)
				c.wakeReader()
			}
		}
	}
}

// writeAll writes within the time that a peer has to take it. The deadline is
// renewed now and then only; it is never nearer than writeTime.
func (c *conn) writeAll(b []byte, final bool) error {
	now := time.Now()
	if margin := min(c.writeTime, 15*time.Second); !final && c.out.until.Sub(now) < c.writeTime {
		c.out.until = now.Add(c.writeTime + margin)
		if err := c.nc.SetWriteDeadline(c.out.until); err != nil {
			return err
		}
	}
	_, err := c.nc.Write(b)
	return err
}

// awaitSpace returns when little enough is pending, or when the stream has
// failed. The lock is held before and after.
func (c *conn) awaitSpace(s *stream) {
	for len(c.out.b) >= maxPending && s.err == nil {
		if !c.out.flushing {
			c.flushLocked()
			c.mu.Lock()
			continue
		}
		c.out.waiting++
		c.out.space.Wait()
		c.out.waiting--
	}
}
