package websocket

import "sync/atomic"

// A Session follows both directions of one WebSocket. The zero value is ready.
// Each direction is written by one goroutine.
type Session struct {
	// Sent follows the client, Received the server.
	Sent, Received Counter
	code           atomic.Uint32 // of the Close frame that came first
}

// FromClient takes the next bytes of the client. False means that they are no
// WebSocket from the very beginning, and must not be forwarded: a first frame
// that is well-formed and masked (RFC 6455 section 5.1) is what neither HTTP
// nor TLS can look like to whoever reads it.
func (s *Session) FromClient(p []byte) bool {
	s.write(&s.Sent, p)
	return !s.Sent.bare && (!s.Sent.lost || s.Sent.frames > 0)
}

// FromServer takes the next bytes of the server.
func (s *Session) FromServer(p []byte) { s.write(&s.Received, p) }

func (s *Session) write(c *Counter, p []byte) {
	closed := c.closed
	c.write(p)
	if c.closed && !closed {
		s.code.CompareAndSwap(0, uint32(c.status))
	}
}

// CloseCode gives the code of the Close frame that came first from either side:
// NoStatus where it had none, Abnormal where the connection ended without one,
// 0 where that cannot be told because a side left the framing.
func (s *Session) CloseCode() uint16 {
	if code := s.code.Load(); code != 0 {
		return uint16(code)
	}
	if s.Sent.lost || s.Received.lost {
		return 0
	}
	return Abnormal
}
