package http2

import (
	"errors"
	"io"

	"sallyport/pkg/exchange"
)

// A sending is one message on its way to a connection.
type sending struct {
	s       *stream
	body    exchange.Body // nil: the message has no content
	trailer *exchange.Header
	length  int64 // declared, or exchange.UnknownLength
	sent    int64
	done    bool
}

// begin appends the head of req, or else of resp, with what of the body is
// here, and has it written. The errors are *exchange.SourceError and, where
// nothing was written, *exchange.SinkError.
func (o *sending) begin(req *exchange.Request, resp *exchange.Response, length int64) error {
	var p []byte
	last := true
	if o.body != nil {
		p, last = o.body.Buffered()
	}
	if err := o.check(len(p), last); err != nil {
		return err
	}
	trailers := o.body != nil && last && o.trailer.Len() > 0
	if trailers && checkFields(o.trailer) != nil {
		return &exchange.SourceError{Err: exchange.ErrInvalidField}
	}
	s := o.s
	c := s.c
	c.mu.Lock()
	c.awaitSpace(s)
	if s.err == nil && req != nil {
		s.cl.enter()
	}
	if s.err != nil {
		err := s.err
		c.unlock()
		return &exchange.SinkError{Err: err}
	}
	bare := last && len(p) == 0 && !trailers
	if req != nil {
		c.encodeRequest(s.id, req, bare)
	} else {
		c.encodeResponse(s.id, resp, length, bare)
	}
	n := 0
	if bare {
		o.done = true
		s.sent()
	} else {
		n = s.appendData(p, last && !trailers)
		if last && n == len(p) {
			if trailers {
				c.encodeTrailer(s.id, o.trailer)
				s.sent()
			}
			o.done = s.sendEnd
		}
	}
	c.flushLocked()
	if n > 0 {
		o.sent = int64(n)
		o.body.Discard(n)
	}
	return nil
}

// check refuses n more bytes, or the end behind them, where another length was
// declared.
func (o *sending) check(n int, last bool) error {
	if sent := o.sent + int64(n); o.length >= 0 && (sent > o.length || last && sent < o.length) {
		return &exchange.SourceError{Err: exchange.ErrBodyLength}
	}
	return nil
}

// rest sends what is left of the body as it comes: a piece never waits for the
// next one.
func (o *sending) rest() error {
	if o.done {
		return nil
	}
	own, _ := o.body.(*body)
	var in *input
	if own == nil {
		in = o.s.c.codec.getInput()
		defer o.s.c.codec.inputs.Put(in)
	}
	for !o.done {
		var p []byte
		var last, more bool
		var err error
		if own != nil {
			p, last, more, err = own.next()
		} else {
			p, last, err = o.read(in)
		}
		if err != nil {
			return &exchange.SourceError{Err: err}
		}
		if err := o.check(len(p), last); err != nil {
			return err
		}
		if err := o.piece(p, last, more, in == nil || len(p) == 0 || &p[0] != &in.b[0]); err != nil {
			return err
		}
	}
	return nil
}

// read gives what a body of another kind has, or waits for it.
func (o *sending) read(in *input) (p []byte, last bool, err error) {
	if p, last = o.body.Buffered(); len(p) > 0 || last {
		return p, last, nil
	}
	n, err := o.body.Read(in.b[:maxFrame])
	switch {
	case err == io.EOF:
		return in.b[:n], true, nil
	case err != nil && n == 0:
		return nil, false, err
	}
	left, last := o.body.Buffered()
	return in.b[:n], last && len(left) == 0, nil
}

// piece sends one piece; buffered says that the body still holds it.
func (o *sending) piece(p []byte, last, more, buffered bool) error {
	trailers := last && o.trailer.Len() > 0
	if trailers && checkFields(o.trailer) != nil {
		return &exchange.SourceError{Err: exchange.ErrInvalidField}
	}
	if len(p) > 0 {
		n, err := o.s.write(p, last && !trailers, more)
		o.sent += int64(n)
		if buffered {
			o.body.Discard(n)
		}
		if err != nil {
			return err
		}
		if last && !trailers {
			o.done = true
			return nil
		}
	}
	if !last {
		return nil
	}
	o.done = true
	return o.s.endWith(o.trailer)
}

// resetCode is what the other side of an exchange is told when a message was
// cut: what its sender said, where that means the same there.
func resetCode(err error) Code {
	var reset *ResetError
	if errors.As(err, &reset) && !reset.Local {
		switch reset.Code {
		case Cancel, EnhanceYourCalm, ConnectError:
			return reset.Code
		}
	}
	return InternalError
}
