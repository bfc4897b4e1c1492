package http1

import (
	"errors"
	"io"
	"net"
	"time"

	"sallyport/pkg/exchange"
)

// A ServerConn reads requests from one client and writes the responses. One
// goroutine uses it; only the body of a request may be read by another one
// while the response is written. Deadlines of the connection are the caller's,
// except that Finish and Close set and clear their own.
//
// The order for each exchange is Wait, ReadRequest, any number of
// WriteInformational, WriteResponse, Finish. Pipelined requests are answered
// one by one: the next is not looked at before Finish.
type ServerConn struct {
	rd   reader
	body body
	// closing says that the connection ends after this exchange.
	closing bool
	// broken says that what is left of the input cannot be understood.
	broken bool
	// continued says that a 100 was sent.
	continued bool
	// expecting says that the client waits for a 100 before its body.
	expecting bool
	hasBody   bool
}

// Server gives the server side of a connection. It starts nothing and reads
// nothing.
func (c *Codec) Server(conn net.Conn) *ServerConn {
	s := &ServerConn{rd: reader{codec: c, conn: conn}}
	s.body.rd = &s.rd
	return s
}

// Wait returns when the first byte of a request is here. Until then the
// connection holds no buffer. io.EOF means that the client has closed.
func (s *ServerConn) Wait() error { return s.rd.wait() }

// ReadRequest reads the head of the next request into req, which is reset
// first. The errors are io.EOF (no further request), io.ErrUnexpectedEOF, those
// of the connection, and *exchange.MalformedError: then req holds what was understood,
// a refusal can still be written, and Finish answers false.
func (s *ServerConn) ReadRequest(req *exchange.Request) error {
	req.Reset()
	s.closing, s.broken, s.continued, s.expecting, s.hasBody = true, true, false, false, false
	head, err := s.rd.head(true)
	if err != nil {
		return err
	}
	kind, length, err := parseRequest(head, req)
	if err != nil {
		req.Body, req.Length = nil, exchange.NoBody
		return err
	}
	s.closing, s.broken = req.Close, false
	if req.Length != exchange.NoBody {
		s.hasBody = true
		s.body.begin(kind, length, true, &req.Trailer)
		if s.body.err != nil {
			// A body that is broken within its first bytes never reaches the
			// upstream.
			s.closing, s.broken, req.Length = true, true, exchange.NoBody
			return s.body.err
		}
		req.Body = &s.body
		s.expecting = req.ExpectContinue
	}
	return nil
}

// WriteInformational sends an interim response (1xx but not 101) on. A client
// of HTTP/1.0 gets none (RFC 9110 section 15.2).
func (s *ServerConn) WriteInformational(req *exchange.Request, resp *exchange.Response) error {
	if req.Version == exchange.HTTP10 {
		return nil
	}
	buffer := s.rd.codec.getBuffer()
	defer s.rd.codec.putBuffer(buffer)
	b, err := appendResponse(buffer.b[:0], req, resp, noContent, false)
	if err != nil {
		return err
	}
	if resp.Status == 100 {
		s.continued = true
	}
	if _, err := s.rd.conn.Write(b); err != nil {
		s.broken = true
		return &exchange.SinkError{Err: err}
	}
	return nil
}

// CloseAfter makes the running exchange the last one of the connection.
func (s *ServerConn) CloseAfter() { s.closing = true }

// WriteResponse writes resp, head and first content in one write, and streams
// its body to the end. It gives the bytes of content that were written. After
// a *exchange.SourceError the client has a response that is visibly cut, never
// one that seems whole; after a *exchange.SinkError the client is gone.
// ErrInvalidField means that nothing was written.
func (s *ServerConn) WriteResponse(req *exchange.Request, resp *exchange.Response) (int64, error) {
	s.decideClose(resp)
	framing, content := frameResponse(req, resp)
	if framing == untilClose {
		s.closing = true
	}
	buffer := s.rd.codec.getBuffer()
	defer s.rd.codec.putBuffer(buffer)
	b, err := appendResponse(buffer.b[:0], req, resp, framing, s.closing)
	if err != nil {
		return 0, err
	}
	out := outgoing{body: resp.Body, chunked: framing == chunkedCoding, length: resp.Length, trailer: &resp.Trailer}
	out.done = !content || resp.Body == nil
	if content && resp.Body == nil && resp.Length > 0 {
		s.broken = true
		return 0, &exchange.SourceError{Err: exchange.ErrBodyLength}
	}
	if content && resp.Body == nil && out.chunked {
		b = append(b, lastChunk+"\r\n"...)
	}
	b, err = out.gather(b)
	if _, werr := s.rd.conn.Write(b); werr != nil {
		s.broken = true
		return out.sent, &exchange.SinkError{Err: werr}
	}
	if err == nil {
		err = out.stream(s.rd.conn, buffer)
	}
	if err != nil {
		s.broken = true
		var source *exchange.SourceError
		if framing == untilClose && errors.As(err, &source) {
			// The end of the connection is the end of this body: only a reset
			// tells the client that it was cut.
			exchange.Abort(s.rd.conn)
		}
	}
	return out.sent, err
}

// decideClose finds out before the head is written whether the connection can
// go on behind it.
func (s *ServerConn) decideClose(resp *exchange.Response) {
	if s.broken || resp.Status == 101 {
		s.closing = true
	}
	if !s.hasBody || s.body.Complete() {
		return
	}
	switch {
	case s.expecting && !s.continued && !s.body.touched.Load():
		// The client may send the body or the next request: what comes cannot
		// be told apart.
		s.closing = true
	case resp.Local && s.body.kind == fixedBody && s.body.remain > maxDrain:
		s.closing = true
	}
}

// Finish ends the exchange and reports whether the next request can be read.
// A short rest of a request that was answered early is read and thrown away;
// on false the caller must Close.
func (s *ServerConn) Finish() bool {
	if s.broken || s.closing || s.body.interrupted.Load() && s.hasBody {
		return false
	}
	if s.hasBody && !s.body.Complete() && !s.drain() {
		s.closing = true
		return false
	}
	return true
}

// drain reads the rest of a body within its bounds.
func (s *ServerConn) drain() bool {
	if err := s.rd.conn.SetReadDeadline(time.Now().Add(drainTime)); err != nil {
		return false
	}
	buffer := s.rd.codec.getBuffer()
	defer s.rd.codec.putBuffer(buffer)
	for left := maxDrain; left > 0; {
		n, err := s.body.Read(buffer.b[:])
		left -= n
		if err == io.EOF {
			return s.rd.conn.SetReadDeadline(time.Time{}) == nil
		}
		if err != nil {
			return false
		}
	}
	return false
}

// Detach ends HTTP on the connection, after a 101 or an accepted CONNECT. It
// gives the connection and the bytes of the client that were read already.
func (s *ServerConn) Detach() (net.Conn, []byte) { return s.rd.detach() }

// Close closes the connection. Where input may be unread it first ends the
// output, then reads and throws away what still comes for a bounded time, so
// that the reset which unread input provokes cannot destroy the response: a
// client that is sending a long body may look for it late.
func (s *ServerConn) Close() error {
	if s.broken || s.hasBody && !s.body.Complete() {
		s.linger()
	}
	return s.CloseNow()
}

// CloseNow closes the connection and waits for nothing: nobody has the time.
func (s *ServerConn) CloseNow() error {
	s.rd.release()
	return s.rd.conn.Close()
}

func (s *ServerConn) linger() {
	// A connection that is gone already makes each of these fail, and nothing
	// is lost then.
	half, ok := s.rd.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	raw := exchange.Innermost(s.rd.conn)
	if half, ok := raw.(interface{ CloseWrite() error }); ok && raw != s.rd.conn && half.CloseWrite() != nil {
		return
	}
	buffer := s.rd.codec.getBuffer()
	defer s.rd.codec.putBuffer(buffer)
	end := time.Now().Add(lingerTime)
	var set time.Time
	for got := 0; ; {
		if got >= lingerPart {
			time.Sleep(lingerPause)
			got = 0
		}
		now := time.Now()
		if now.After(end) {
			return
		}
		// Set seldom, so that it does not hide the deadline by which others end
		// the connection.
		if now.Sub(set) > lingerWait/4 {
			set = now
			if raw.SetReadDeadline(now.Add(lingerWait)) != nil {
				return
			}
		}
		// What is thrown away needs no decryption.
		n, err := raw.Read(buffer.b[:])
		if err != nil {
			return
		}
		got += n
	}
}

// detach gives the connection and a copy of what was read of it and not
// understood.
func (rd *reader) detach() (net.Conn, []byte) {
	rest := append([]byte(nil), rd.a.unread(rd)...)
	rd.release()
	return rd.conn, rest
}
