package http2

// dataState is a DATA frame of which a part has not come yet. The reading
// goroutine changes it under the lock; s is cleared when its stream ends.
type dataState struct {
	active bool
	s      *stream
	left   int // bytes of content
	pad    int // bytes of padding behind it
	end    bool
}

// onData takes the header of a DATA frame, with content bytes of content and
// pad of padding, and what is here of both, and gives how much of b it took.
// Padding and its length count for flow control (RFC 9113 section 6.1) and are
// given back at once: they occupy nothing.
func (c *conn) onData(h frameHeader, content, pad, overhead int, b []byte) (used int, err error) {
	c.mu.Lock()
	defer c.unlock()
	if h.id == 0 {
		return 0, fault(ProtocolFault, "DATA without a stream")
	}
	if c.recvWindow -= h.length; c.recvWindow < 0 {
		return 0, fault(FlowControlError, "DATA beyond the window of the connection")
	}
	end := h.flags&flagEndStream != 0
	s := c.streams[h.id]
	switch {
	case s == nil:
		if c.idle(h.id) {
			return 0, fault(ProtocolFault, "DATA on an idle stream")
		}
		err = c.stray(h.id)
	case s.recvEnd:
		err = c.streamFault(s, StreamClosed, "DATA behind the end of the stream")
		s = nil
	case s.cl != nil && !s.cl.headed:
		err = c.streamFault(s, ProtocolFault, "DATA before HEADERS")
		s = nil
	case s.declared >= 0 && s.got+int64(content) > s.declared,
		s.declared >= 0 && end && s.got+int64(content) < s.declared:
		err = c.streamFault(s, ProtocolFault, "content of another length than declared")
		s = nil
	default:
		if s.recvWindow -= h.length; s.recvWindow < 0 {
			err = c.streamFault(s, FlowControlError, "DATA beyond the window of the stream")
			s = nil
		} else {
			s.got += int64(content)
		}
	}
	c.floods.useful()
	if content == 0 && !end {
		if flooded := c.floods.empty(); flooded != nil {
			return 0, flooded
		}
	}
	if err != nil {
		return 0, err
	}
	c.giveBack(pad + overhead)
	if s != nil && pad+overhead > 0 {
		s.giveBack(pad + overhead)
	}
	c.data = dataState{active: true, s: s, left: content, pad: pad, end: end}
	return c.takeData(b), nil
}

// onMoreData takes what has come of a DATA frame that was begun.
func (c *conn) onMoreData(b []byte) (used int) {
	c.mu.Lock()
	defer c.unlock()
	return c.takeData(b)
}

// takeData moves content to the stream, or nowhere if that has ended. The lock
// is held.
func (c *conn) takeData(b []byte) (used int) {
	d := &c.data
	if n := min(len(b), d.left); n > 0 {
		d.left -= n
		used = n
		switch {
		case d.s == nil || d.s.body.dead:
			c.giveBack(n)
		default:
			d.s.body.put(b[:n])
			d.s.moved(c.in.now)
			if c.codec.held.Load() > budget {
				c.withheld += n
			} else {
				c.giveBack(n)
			}
			if d.left > 0 || d.pad > 0 || !d.end {
				d.s.rcond.Broadcast()
			}
		}
	}
	n := min(len(b)-used, d.pad)
	d.pad -= n
	used += n
	if d.left == 0 && d.pad == 0 {
		d.active = false
		if d.s != nil && d.end {
			d.s.received()
		}
		d.s = nil
	}
	return used
}
