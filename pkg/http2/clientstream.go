package http2

import (
	"errors"
	"time"

	"sallyport/pkg/exchange"
)

// A ClientStream carries one exchange. One goroutine uses it; Interrupt may be
// called from any. The order is RoundTrip, reading resp.Body, Finish.
type ClientStream struct {
	stream
	out sending

	// Guarded by the connection's lock.
	method string
	// headed: the final head came; head holds it, and headEnd whether the
	// stream ended with it, until RoundTrip reads it.
	headed, headEnd bool
	head            *block
	// interim are the heads before it that wait for RoundTrip, informed how
	// many came.
	interim  []*block
	informed int
	// unprocessed: the server has certainly not acted on the request.
	unprocessed bool
	// sending says that a goroutine sends the rest of the request, sendErr how
	// it went; answered that RoundTrip gave a response.
	sending  bool
	sendErr  error
	timeout  time.Duration
	finished bool
	// placed: one of the connection's places is taken.
	placed bool
}

// interim reports whether the block is an interim response.
func (b *block) interim() bool {
	return b.bad == nil && !b.over && b.pseudo == hasStatus && b.status < 200 && b.status != 101
}

// onInterim takes an interim response. The lock is held.
func (s *ClientStream) onInterim(b *block) error {
	if s.informed++; s.informed > maxInformational || len(s.interim) == maxQueuedInformational {
		s.c.codec.putBlock(b)
		return s.c.streamFault(&s.stream, EnhanceYourCalm, "too many interim responses")
	}
	s.interim = append(s.interim, b)
	s.rcond.Broadcast()
	return nil
}

// onHead takes the head of the final response. The lock is held.
func (s *ClientStream) onHead(b *block, end bool) {
	s.headed, s.head, s.headEnd = true, b, end
	s.headerAt = time.Time{}
	switch {
	case tunnels(s.method, b.status):
	case bodiless(s.method, b.status):
		s.declared = 0
	default:
		s.declared = b.length
	}
	if end {
		s.received()
		return
	}
	s.rcond.Broadcast()
}

// giveBackPlace lets another stream be opened: the server counts those that the
// wire knows. The lock is held.
func (s *ClientStream) giveBackPlace() {
	if !s.placed {
		return
	}
	s.placed = false
	s.c.cli.taken--
}

// enter makes the stream known to the wire, unless that is too late. The lock
// is held.
func (s *ClientStream) enter() {
	c := s.c
	if c.goneAway != nil {
		s.err = c.goneAway
		return
	}
	if c.err != nil {
		s.err = c.err
		return
	}
	c.cli.start()
	id := c.lastID + 2
	if c.lastID == 0 {
		id = 1
	}
	c.lastID = id
	s.stream.enter(id, time.Now())
}

// RoundTrip sends req, head and first content together, and waits for the head
// of the final response, which it puts into resp, after a reset. It returns
// while the rest of the request is still being sent where the server answers
// early, and always for an extended CONNECT. req and resp must stay until
// Finish. A failure is a *exchange.RoundTripError, except ErrInvalidField and
// errors of Informational; Finish must be called all the same, and before a
// refusal is written to the client: until then the body may be in use.
func (s *ClientStream) RoundTrip(req *exchange.Request, resp *exchange.Response, opts exchange.Options) error {
	resp.Reset()
	if err := checkRequest(req); err != nil {
		return err
	}
	if req.Body == nil && req.Length > 0 {
		return &exchange.RoundTripError{Op: "read request body", Err: exchange.ErrBodyLength}
	}
	s.out = sending{s: &s.stream, body: req.Body, trailer: &req.Trailer, length: req.Length}
	s.method = req.Method
	c := s.c
	if err := s.out.begin(req, nil, req.Length); err != nil {
		return s.notSent(req, err)
	}
	c.mu.Lock()
	s.timeout = opts.HeaderTimeout
	if s.out.done || s.err != nil {
		s.requestSent()
	} else {
		s.sending = true
		c.tasks.Add(1)
		go s.send()
	}
	for {
		for len(s.interim) == 0 && s.head == nil && s.err == nil {
			s.rcond.Wait()
		}
		switch {
		case len(s.interim) > 0:
			b := s.interim[0]
			s.interim = s.interim[1:]
			c.mu.Unlock()
			if err := s.inform(b, resp, opts); err != nil {
				return err
			}
			c.mu.Lock()
		case s.head != nil:
			return s.answer(resp)
		default:
			return s.failed(req)
		}
	}
}

// notSent makes the error of a request of which nothing has left.
func (s *ClientStream) notSent(req *exchange.Request, err error) error {
	var source *exchange.SourceError
	if errors.As(err, &source) {
		return &exchange.RoundTripError{Op: "read request body", Err: source.Err}
	}
	var sink *exchange.SinkError
	if errors.As(err, &sink) {
		err = sink.Err
	}
	again := !errors.Is(err, exchange.ErrInterrupted) && (req.Body == nil || req.Body.Rewind())
	return &exchange.RoundTripError{Op: "write request", Err: err, Replayable: again, Unprocessed: true}
}

// requestSent starts the time that the server has for its response. The lock
// is held.
func (s *ClientStream) requestSent() {
	if s.timeout > 0 && !s.headed && !s.gone {
		s.headerAt = time.Now().Add(s.timeout)
		s.c.watch.at(s.c, s.headerAt)
	}
}

// send sends the rest of the request; the goroutine ends with it.
func (s *ClientStream) send() {
	c := s.c
	defer c.tasks.Done()
	err := s.out.rest()
	c.mu.Lock()
	s.sending, s.sendErr = false, err
	var source *exchange.SourceError
	if errors.As(err, &source) && !s.finished {
		// The server must see that the request was cut, and nobody needs to
		// wait for its answer.
		s.reset(Cancel, err)
		c.flushSoon()
	}
	if err == nil {
		s.requestSent()
	}
	s.rcond.Broadcast()
	c.unlock()
}

// inform hands on an interim response.
func (s *ClientStream) inform(b *block, resp *exchange.Response, opts exchange.Options) error {
	defer s.c.codec.putBlock(b)
	if opts.Informational == nil {
		return nil
	}
	defer resp.Reset()
	if err := b.response(resp, s.method, false); err != nil {
		return &exchange.RoundTripError{Op: "read response", Err: err}
	}
	return opts.Informational(resp)
}

// answer hands on the final response. The lock is held, and let go of.
func (s *ClientStream) answer(resp *exchange.Response) error {
	b, end := s.head, s.headEnd
	s.head = nil
	s.body.trailer = &resp.Trailer
	s.c.unlock()
	err := b.response(resp, s.method, end)
	tunnel := tunnels(s.method, b.status)
	s.c.codec.putBlock(b)
	if err != nil {
		s.c.mu.Lock()
		if !s.gone {
			s.reset(ProtocolFault, err)
			s.c.flushSoon()
		}
		s.c.unlock()
		return &exchange.RoundTripError{Op: "read response", Err: err}
	}
	if tunnel || !end && !bodiless(s.method, resp.Status) {
		resp.Body = &s.body
	}
	return nil
}

// failed makes the error of an exchange without a response, blaming the client
// where its body was the cause. The lock is held, and let go of.
func (s *ClientStream) failed(req *exchange.Request) error {
	e := &exchange.RoundTripError{Op: "read response", Err: s.err, Unprocessed: s.unprocessed}
	sending := s.sending
	untouched := s.informed == 0
	var source *exchange.SourceError
	if errors.As(s.err, &source) {
		e.Op, e.Err = "read request body", source.Err
		untouched = false
	}
	var reset *ResetError
	if errors.As(s.err, &reset) {
		// RFC 9113 section 8.7.
		e.Unprocessed = e.Unprocessed || !reset.Local && reset.Code == RefusedStream
		if reset.Local {
			e.Err = malformed(reset.Text)
		}
		untouched = untouched && e.Unprocessed
	}
	if errors.Is(s.err, exchange.ErrInterrupted) || errors.Is(s.err, ErrHeaderTimeout) || errors.Is(s.err, ErrStalled) {
		untouched = false
	}
	s.c.unlock()
	// A body that is still being sent cannot be sent again.
	e.Replayable = untouched && !sending && (req.Body == nil || req.Body.Rewind())
	return e
}

// Finish ends the exchange: it stops and waits for the sending of a request
// whose response is complete, resets the stream where either side is not, and
// gives its place back. reusable says that the connection goes on. The error is
// why the request could not be sent whole: a *exchange.SourceError where the
// client cut it, a *exchange.SinkError where the server did not take it, nil
// where the server had answered and the rest was not wanted any more.
func (s *ClientStream) Finish(req *exchange.Request) (reusable bool, err error) {
	c := s.c
	c.mu.Lock()
	if s.finished {
		defer c.unlock()
		return c.cli.usable(), nil
	}
	s.finished = true
	stopped := false
	// A goroutine that has sent the end is just returning.
	if s.sending && !s.sendEnd {
		stopped = true
		if s.err == nil {
			s.err = exchange.ErrInterrupted
		}
		s.scond.Broadcast()
		c.out.space.Broadcast()
		c.unlock()
		req.Body.Interrupt()
		c.mu.Lock()
	}
	for s.sending {
		s.rcond.Wait()
	}
	err = s.sendErr
	if s.headed && err != nil {
		var sink *exchange.SinkError
		var reset *ResetError
		switch {
		case stopped && (errors.As(err, &sink) || errors.Is(err, exchange.ErrInterrupted)):
			// We stopped it: nobody failed.
			err = nil
		case errors.As(err, &sink) && errors.As(err, &reset) && reset.Code == NoError && s.recvEnd:
			// RFC 9113 section 8.1.
			err = nil
		}
	} else if stopped && errors.Is(err, exchange.ErrInterrupted) {
		err = nil
	}
	if !s.gone {
		s.reset(Cancel, ErrClosed)
		c.flushSoon()
	}
	s.body.free()
	if s.head != nil {
		c.codec.putBlock(s.head)
		s.head = nil
	}
	for _, b := range s.interim {
		c.codec.putBlock(b)
	}
	s.interim = nil
	s.giveBackPlace()
	reusable = c.cli.usable()
	c.unlock()
	s.out.body, s.out.trailer, s.body.trailer = nil, nil, nil
	return reusable, err
}

// Sent waits at most d until the request is not being sent any more, and reports
// whether that is so and nobody has cut it: its body belongs to the caller
// again. RoundTrip has returned, Finish was not called yet.
func (s *ClientStream) Sent(d time.Duration) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.sending {
		over := false
		timer := time.AfterFunc(d, func() {
			c.mu.Lock()
			over = true
			s.rcond.Broadcast()
			c.mu.Unlock()
		})
		defer timer.Stop()
		for s.sending && !over {
			s.rcond.Wait()
		}
	}
	var source *exchange.SourceError
	return !s.sending && !errors.As(s.sendErr, &source)
}

// Interrupt ends the stream from another goroutine: RoundTrip and reads of the
// response fail. It never waits, and does nothing after Finish.
func (s *ClientStream) Interrupt() {
	c := s.c
	c.mu.Lock()
	if !s.finished && s.err == nil {
		s.reset(Cancel, exchange.ErrInterrupted)
		c.flushSoon()
	}
	c.unlock()
}
