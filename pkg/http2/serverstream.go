package http2

import (
	"errors"
	"time"

	"sallyport/pkg/exchange"
)

// A ServerStream is one request on its way. It is good until handle returns.
// WriteInformational and WriteResponse belong to one goroutine, which may be
// another one than that which reads the request's body.
type ServerStream struct {
	stream
	x *exchange.Exchange
	// block is the header list until run reads it; bare says that the stream
	// ended with it.
	block *block
	bare  bool
	bad   *exchange.MalformedError

	// Guarded by the connection's lock.
	onCancel  func()
	cancelled bool
	calling   bool // onCancel is being called
}

func (c *Codec) getServerStream(cn *conn) *ServerStream {
	s, ok := c.streams.Get().(*ServerStream)
	if !ok {
		s = new(ServerStream)
	}
	s.init(cn)
	s.sv = s
	return s
}

func (c *Codec) putServerStream(s *ServerStream) {
	*s = ServerStream{}
	c.streams.Put(s)
}

// run reads the header list and has the request handled.
func (s *ServerStream) run(handle func(*ServerStream)) {
	srv := s.c.srv
	s.x = srv.o.Exchanges.Get()
	req := &s.x.Request
	if err := s.block.request(req, s.bare, srv.o.ExtendedConnect); err != nil {
		errors.As(err, &s.bad)
		req.Length = exchange.NoBody
	} else if req.Length != exchange.NoBody {
		s.body.trailer, s.body.request = &req.Trailer, true
		req.Body = &s.body
	}
	s.c.codec.putBlock(s.block)
	s.block = nil
	handle(s)
	if req.Length != exchange.NoBody {
		s.discard()
	}
}

// discard takes the rest of a request that was answered before it was here, for
// a while: some clients look at the answer only when they have sent all, and
// some take RST_STREAM for a failure while they are still sending, whatever
// they were answered.
func (s *ServerStream) discard() {
	s.c.mu.Lock()
	owed := !s.gone && s.sendEnd && !s.body.ended && s.bad == nil
	if owed {
		s.c.flushSoon()
	}
	s.c.mu.Unlock()
	if !owed {
		return
	}
	timer := time.AfterFunc(discardTime, s.body.Interrupt)
	defer timer.Stop()
	for left := maxDiscard; left > 0; {
		p, last, _, err := s.body.next()
		if err != nil || last {
			return
		}
		left -= len(p)
		s.body.Discard(len(p))
	}
}

// close ends what handle has left open. The lock is held.
func (s *ServerStream) close() {
	for s.calling {
		s.rcond.Wait()
	}
	s.onCancel = nil
	switch {
	case s.gone:
	case !s.sendEnd:
		s.reset(InternalError, ErrClosed)
	case s.bad != nil:
		s.reset(ProtocolFault, ErrClosed)
	default:
		// RFC 9113 section 8.1.
		s.reset(NoError, ErrClosed)
	}
	s.body.free()
}

// Exchange gives the stream's exchange. Its Request is filled.
func (s *ServerStream) Exchange() *exchange.Exchange { return s.x }

// Malformed gives what is wrong with a request that must be refused with its
// status; its Request holds what was understood. Nil: nothing is.
func (s *ServerStream) Malformed() *exchange.MalformedError { return s.bad }

// WriteInformational sends an interim response (1xx but not 101) on. Errors
// are as for WriteResponse.
func (s *ServerStream) WriteInformational(req *exchange.Request, resp *exchange.Response) error {
	if resp.Status < 100 || resp.Status == 101 || resp.Status > 199 || checkFields(&resp.Header) != nil {
		return exchange.ErrInvalidField
	}
	c := s.c
	c.mu.Lock()
	c.awaitSpace(&s.stream)
	if s.err != nil {
		err := s.err
		c.unlock()
		return &exchange.SinkError{Err: err}
	}
	c.encodeResponse(s.id, resp, exchange.UnknownLength, false)
	c.flushLocked()
	return nil
}

// WriteResponse writes resp and streams its body to the end: head, first
// content and the end together where all is here. It gives the bytes of content
// that were handed to the connection. After a *exchange.SourceError the stream
// was reset, so that the client does not take what it got for whole; after a
// *exchange.SinkError the client, or its interest in the stream, is gone.
// exchange.ErrInvalidField means that nothing was written.
//
// The response to an extended CONNECT goes on in the same way: its Body is what
// the upstream says, while the request's Body is what the client says, until
// handle returns.
//
// What is not here of the request when handle returns is not wanted any more,
// and the client is told so (RFC 9113 section 8.1).
func (s *ServerStream) WriteResponse(req *exchange.Request, resp *exchange.Response) (int64, error) {
	if resp.Status < 200 || resp.Status > 999 || checkFields(&resp.Header) != nil {
		return 0, exchange.ErrInvalidField
	}
	length, content := frameResponse(req, resp)
	o := sending{s: &s.stream, trailer: &resp.Trailer, length: exchange.UnknownLength}
	if content {
		o.body, o.length = resp.Body, length
	}
	if !content && length > 0 && !bodiless(req.Method, resp.Status) {
		s.Reset(InternalError)
		return 0, &exchange.SourceError{Err: exchange.ErrBodyLength}
	}
	err := o.begin(nil, resp, length)
	if err == nil {
		err = o.rest()
	}
	var source *exchange.SourceError
	if errors.As(err, &source) {
		s.Reset(resetCode(source.Err))
	}
	return o.sent, err
}

// frameResponse gives the length that is declared, -1 for none, and whether
// content follows.
func frameResponse(req *exchange.Request, resp *exchange.Response) (length int64, content bool) {
	switch {
	case resp.Status == 204:
		return -1, false
	case tunnels(req.Method, resp.Status):
		return -1, resp.Body != nil
	case bodiless(req.Method, resp.Status):
		return resp.Length, false
	default:
		return resp.Length, resp.Body != nil
	}
}

// Reset ends the stream at once, without or within its response.
func (s *ServerStream) Reset(code Code) {
	s.c.mu.Lock()
	if !s.gone {
		// It is no news to who asks for it.
		s.cancelled = true
		s.reset(code, &ResetError{Code: code, Local: true, Text: "the exchange was cut"})
		s.c.flushSoon()
	}
	s.c.unlock()
}

// cancel takes note that nobody waits any more. The lock is held.
func (s *ServerStream) cancel() {
	if s.cancelled {
		return
	}
	s.cancelled = true
	if s.onCancel != nil {
		s.calling = true
		s.c.cancels = append(s.c.cancels, s)
	}
}

// OnCancel has f called, at most once, when the client resets the stream or
// the connection ends while handle runs; at once where that has happened
// already. f must not block and must not call methods of this stream other than
// Cancelled. After OnCancel(nil), and after handle has returned, f is neither
// called nor running.
func (s *ServerStream) OnCancel(f func()) {
	c := s.c
	c.mu.Lock()
	for s.calling {
		s.rcond.Wait()
	}
	s.onCancel = f
	now := f != nil && s.cancelled
	c.mu.Unlock()
	if now {
		f()
	}
}

// Cancelled reports whether nobody waits for the response any more.
func (s *ServerStream) Cancelled() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.cancelled
}
