package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/http2"
)

// A stream is a call of HTTP/2 with all that one of HTTP/1 shares with its
// connection.
type stream struct {
	*http2.ServerStream
	session *session
	call    call
	ev      audit.Event
	work    work
	// quiet is stream_idle in ns, 0 for none.
	quiet atomic.Int64
	// cancel is made once, so that a request does not cost a closure.
	cancel func()

	mu sync.Mutex
	up inUse
}

var _ client = (*stream)(nil)

// CloseAfter implements client: a stream is the last one of its connection
// only where the connection drains.
func (s *stream) CloseAfter() {
	if s.session.c.p.draining.Load() {
		s.session.drain()
	}
}

// use notes what carries the exchange.
func (s *stream) use(u inUse) {
	s.mu.Lock()
	s.up = u
	s.mu.Unlock()
	if u != nil && s.Cancelled() {
		u.Interrupt()
	}
}

// interrupt ends what carries the exchange, and with it the exchange.
func (s *stream) interrupt() {
	s.mu.Lock()
	if s.up != nil {
		s.up.Interrupt()
	}
	s.mu.Unlock()
}

// refuseExtended says why an extended CONNECT (RFC 8441) cannot be carried, ""
// where it can. Protocols other than WebSocket could carry anything out of
// sight, datagrams and whole tunnels among it (RFC 9298, RFC 9484).
func (s *stream) refuseExtended(req *exchange.Request) string {
	switch {
	case req.Upgrade != "websocket":
		return "CONNECT for a protocol other than websocket is refused"
	case !s.session.h.settings.ExtendedConnect:
		return "the upstream does not take WebSockets over HTTP/2"
	default:
		return ""
	}
}

// look interrupts a stream that has been silent for longer than it may.
func (s *stream) look() {
	quiet := time.Duration(s.quiet.Load())
	if quiet == 0 || time.Since(s.LastActive()) <= quiet {
		return
	}
	s.interrupt()
}
