package http2

import (
	"io"
	"runtime"
	"time"

	"sallyport/pkg/exchange"
)

// A reader takes frames off a connection. While it waits and no stream is open
// it holds no buffer.
type reader struct {
	in *input
	// in.b[r:w] is what was read and not yet understood.
	r, w int
	// first takes the first bytes of a frame, so that an idle connection needs
	// nothing more. The rest of the same TLS record costs no system call.
	first [24]byte
	// settled: the peer's first SETTINGS came.
	settled bool
	// greeted: the client's preface came.
	greeted bool
	// now is when the last bytes came.
	now time.Time
	// waiting, under the connection's lock, says that a read waits with a
	// buffer in hand, trim that it is to give that back.
	waiting, trim bool
}

// An input holds at least one whole frame.
type input struct {
	b [frameHeaderLen + maxFrame]byte
}

func (c *Codec) getInput() *input {
	if in, ok := c.inputs.Get().(*input); ok {
		return in
	}
	return new(input)
}

// loop reads until the connection ends. io.EOF means that it did between two
// frames.
func (r *reader) loop(c *conn) error {
	for {
		for {
			more, err := r.step(c)
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
		if err := r.fill(c); err != nil {
			if err == io.EOF && r.r != r.w {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// drop gives the buffer back.
func (r *reader) drop(c *conn) {
	if r.in != nil {
		c.codec.inputs.Put(r.in)
		r.in = nil
	}
	r.r, r.w = 0, 0
}

// fill reads more bytes behind those that are here, after having the answers
// to what was read sent.
func (r *reader) fill(c *conn) error {
	c.mu.Lock()
	if c.srv != nil {
		c.srv.dispatchFresh()
	}
	if c.err != nil {
		err := c.err
		c.unlock()
		return err
	}
	c.flushSoon()
	// One stream is most likely the last one before a pause: what follows is
	// waited for without a buffer. Over TLS the rest costs no system call.
	small := r.r == r.w && len(c.streams) <= 1
	r.waiting = !small
	behind := c.out.control > maxControl/16
	c.unlock()
	if behind {
		// Answers pile up: perhaps only because their writer has not had its turn.
		runtime.Gosched()
	}
	if small {
		return r.fillSmall(c)
	}
	if r.in == nil {
		r.in = c.codec.getInput()
	}
	r.w = copy(r.in.b[:], r.in.b[r.r:r.w])
	r.r = 0
	n, err := exchange.ReadSome(c.nc, r.in.b[r.w:])
	if err != nil {
		return r.failed(c, err)
	}
	r.w += n
	r.now = time.Now()
	return nil
}

// fillSmall waits for the first bytes of a frame without a buffer.
func (r *reader) fillSmall(c *conn) error {
	r.drop(c)
	n, err := exchange.ReadSome(c.nc, r.first[:])
	if err != nil {
		return r.failed(c, err)
	}
	r.now = time.Now()
	r.in = c.codec.getInput()
	r.w = copy(r.in.b[:], r.first[:n])
	return nil
}

// failed gives the error of a read, nil for one that failed only so that its
// buffer is given back.
func (r *reader) failed(c *conn, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	trim := r.trim && c.err == nil
	r.waiting, r.trim = false, false
	if trim {
		return c.nc.SetReadDeadline(time.Time{})
	}
	return err
}

// step takes the next frame, or of DATA what is here of it; false means that
// more bytes are needed.
func (r *reader) step(c *conn) (more bool, err error) {
	if r.in == nil {
		return false, nil
	}
	b := r.in.b[r.r:r.w]
	if c.srv != nil && !r.greeted {
		n := min(len(b), len(preface))
		if string(b[:n]) != preface[:n] {
			return false, fault(ProtocolFault, "connection preface that is not that of HTTP/2")
		}
		if n < len(preface) {
			return false, nil
		}
		r.greeted = true
		r.r += n
		b = b[n:]
	}
	if c.data.active {
		if len(b) == 0 {
			return false, nil
		}
		r.r += c.onMoreData(b)
		return true, nil
	}
	if len(b) < frameHeaderLen {
		return false, nil
	}
	h := parseFrameHeader(b)
	switch {
	case !r.settled && (h.typ != frameSettings || h.flags&flagAck != 0):
		return false, fault(ProtocolFault, "first frame that is not SETTINGS")
	case h.length > maxFrame:
		return false, fault(FrameSizeError, "frame over SETTINGS_MAX_FRAME_SIZE")
	case c.dec.open != nil && (h.typ != frameContinuation || h.id != c.dec.id):
		return false, fault(ProtocolFault, "frame within a header block")
	case h.typ == frameData:
		return r.startData(c, h, b[frameHeaderLen:])
	case len(b) < frameHeaderLen+h.length:
		return false, nil
	}
	r.r += frameHeaderLen + h.length
	r.settled = true
	return true, c.onFrame(h, b[frameHeaderLen:frameHeaderLen+h.length])
}

// startData takes the header of a DATA frame and what of its content is here.
func (r *reader) startData(c *conn, h frameHeader, b []byte) (more bool, err error) {
	pad, overhead := 0, 0
	if h.flags&flagPadded != 0 {
		switch {
		case h.length == 0:
			return false, fault(FrameSizeError, "padded DATA without a length of padding")
		case len(b) == 0:
			return false, nil
		case int(b[0]) >= h.length:
			return false, fault(ProtocolFault, "padding as long as its frame")
		}
		pad, overhead = int(b[0]), 1
		b = b[1:]
	}
	used, err := c.onData(h, h.length-overhead-pad, pad, overhead, b)
	r.r += frameHeaderLen + overhead + used
	return true, err
}

// onFrame acts on a whole frame that is not DATA.
func (c *conn) onFrame(h frameHeader, p []byte) error {
	switch h.typ {
	case frameHeaders:
		return c.onHeaders(h, p)
	case frameContinuation:
		return c.onContinuation(h, p)
	case frameSettings:
		return c.onSettings(h, p)
	case framePing:
		return c.onPing(h, p)
	case frameWindowUpdate:
		return c.onWindowUpdate(h, p)
	case frameReset:
		return c.onReset(h, p)
	case frameGoAway:
		return c.onGoAway(h, p)
	case framePushPromise:
		// We said ENABLE_PUSH=0, and a client never may.
		return fault(ProtocolFault, "PUSH_PROMISE, which was not allowed")
	case framePriority:
		if h.id == 0 {
			return fault(ProtocolFault, "PRIORITY without a stream")
		}
		if len(p) != 5 {
			return fault(FrameSizeError, "PRIORITY of another length than 5")
		}
		fallthrough
	default:
		// RFC 9113 sections 4.1 and 5.3.2.
		return c.floods.useless()
	}
}
