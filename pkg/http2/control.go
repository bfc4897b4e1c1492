package http2

import "encoding/binary"

func (c *conn) onPing(h frameHeader, p []byte) error {
	switch {
	case h.id != 0:
		return fault(ProtocolFault, "PING on a stream")
	case len(p) != 8:
		return fault(FrameSizeError, "PING of another length than 8")
	}
	if h.flags&flagAck != 0 {
		if c.srv != nil {
			c.srv.onPong(p)
		}
		return c.floods.useless()
	}
	c.mu.Lock()
	defer c.unlock()
	c.appendPing(flagAck, p)
	return c.floods.ping()
}

func (c *conn) onWindowUpdate(h frameHeader, p []byte) error {
	if len(p) != 4 {
		return fault(FrameSizeError, "WINDOW_UPDATE of another length than 4")
	}
	n := int64(binary.BigEndian.Uint32(p) & (1<<31 - 1))
	c.mu.Lock()
	defer c.unlock()
	if h.id == 0 {
		switch {
		case n == 0:
			return fault(ProtocolFault, "WINDOW_UPDATE by 0")
		case c.sendWindow+n > maxWindow:
			return fault(FlowControlError, "window over 2^31-1")
		}
		c.sendWindow += n
		for _, s := range c.streams {
			if s.connWait {
				s.connWait = false
				s.scond.Broadcast()
			}
		}
		return c.floods.windowUpdate()
	}
	s := c.streams[h.id]
	switch {
	case s == nil:
		if c.idle(h.id) {
			return fault(ProtocolFault, "WINDOW_UPDATE on an idle stream")
		}
	case n == 0:
		return c.streamFault(s, ProtocolFault, "WINDOW_UPDATE by 0")
	case s.sendWindow+n > maxWindow:
		return c.streamFault(s, FlowControlError, "window over 2^31-1")
	default:
		s.sendWindow += n
		s.scond.Broadcast()
	}
	return c.floods.windowUpdate()
}

func (c *conn) onReset(h frameHeader, p []byte) error {
	switch {
	case h.id == 0:
		return fault(ProtocolFault, "RST_STREAM without a stream")
	case len(p) != 4:
		return fault(FrameSizeError, "RST_STREAM of another length than 4")
	}
	code := Code(binary.BigEndian.Uint32(p))
	c.mu.Lock()
	defer c.unlock()
	s := c.streams[h.id]
	if s == nil {
		if c.idle(h.id) {
			return fault(ProtocolFault, "RST_STREAM on an idle stream")
		}
		return c.floods.useless()
	}
	s.leave()
	s.fail(&ResetError{Code: code})
	if c.srv != nil {
		return c.floods.reset()
	}
	return nil
}

func (c *conn) onGoAway(h frameHeader, p []byte) error {
	switch {
	case h.id != 0:
		return fault(ProtocolFault, "GOAWAY on a stream")
	case len(p) < 8:
		return fault(FrameSizeError, "GOAWAY shorter than 8")
	}
	last := binary.BigEndian.Uint32(p) & (1<<31 - 1)
	code := Code(binary.BigEndian.Uint32(p[4:]))
	c.mu.Lock()
	defer c.unlock()
	c.goneAway = &GoAwayError{Code: code}
	if c.srv != nil {
		c.srv.settle()
	} else {
		for id, s := range c.streams {
			if id > last {
				s.cl.unprocessed = true
				s.leave()
				s.fail(c.goneAway)
			}
		}
	}
	return c.floods.useless()
}

// idle reports whether the stream was never opened. The lock is held.
func (c *conn) idle(id uint32) bool { return id > c.lastID || id&1 == 0 }

// streamFault resets a stream because the peer broke a rule on it. Making us
// do that costs as much as a reset of its own.
func (c *conn) streamFault(s *stream, code Code, text string) error {
	s.reset(code, &ResetError{Code: code, Local: true, Text: text})
	return c.floods.reset()
}

// stray answers a frame on a stream that the wire does not know any more. The
// lock is held.
func (c *conn) stray(id uint32) error {
	if c.resets.has(id) {
		return nil
	}
	c.appendReset(id, StreamClosed)
	c.resets.add(id)
	return c.floods.reset()
}

func fault(code Code, text string) error { return &ConnError{code, ProtocolError, text} }

func flood(cause Cause, text string) error { return &ConnError{EnhanceYourCalm, cause, text} }
