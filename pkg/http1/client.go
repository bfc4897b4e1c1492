package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/exchange"
)

// A ClientConn sends requests to one upstream and reads the responses, one
// exchange at a time. One goroutine uses it. A request body that is not here
// yet is sent by a goroutine of the connection's own, for which Finish waits.
//
// The order for each exchange is RoundTrip, reading resp.Body, Finish.
type ClientConn struct {
	rd   reader
	body body
	// persists says that the upstream keeps the connection open.
	persists bool
	// content says that the response has a body, read from the connection.
	content bool
	// answered says that the head of the final response is here.
	answered bool
	headers  deadline
	out      outgoing
	sending  chan struct{} // nil: the request was sent in one write
	sendErr  error         // good after sending is closed
	cut      atomic.Bool   // the sender has cut the request off
	handed   atomic.Bool   // the whole request was written
	probe    probe
}

// Client gives the client side of a connection. It starts nothing.
func (c *Codec) Client(conn net.Conn) *ClientConn {
	cc := &ClientConn{rd: reader{codec: c, conn: conn}}
	cc.body.rd = &cc.rd
	cc.headers.conn = conn
	return cc
}

// RoundTrip sends req, head and first content in one write, and reads the head
// of the final response into resp, which is reset first. It returns while the
// rest of the request is still being sent where the upstream answers early.
// req and resp must stay until Finish. A failure is a *exchange.RoundTripError, except
// ErrInvalidField and errors of Informational; Finish must be called all the
// same, and before a refusal is written to the client: until then the body may
// be in use.
func (c *ClientConn) RoundTrip(req *exchange.Request, resp *exchange.Response, opts exchange.Options) error {
	resp.Reset()
	c.persists, c.content, c.answered, c.sending, c.sendErr = false, false, false, nil, nil
	c.cut.Store(false)
	c.handed.Store(false)
	c.out = outgoing{body: req.Body, chunked: req.Length < 0, length: req.Length, trailer: &req.Trailer, done: req.Body == nil}
	if c.rd.buffered() > 0 {
		return &exchange.RoundTripError{Op: "write request", Err: ErrUnsolicited, Replayable: true}
	}
	if req.Body == nil && req.Length != exchange.NoBody {
		return &exchange.RoundTripError{Op: "read request body", Err: exchange.ErrBodyLength}
	}
	if err := c.start(req, opts.HeaderTimeout); err != nil {
		return err
	}
	for interim := 0; ; interim++ {
		kind, err := c.readHead(req, resp)
		if err == nil && resp.Status < 200 && resp.Status != 101 {
			if interim == maxInformational {
				err = malformed("more than 100 interim responses")
			} else {
				if opts.Informational != nil {
					if err := opts.Informational(resp); err != nil {
						return err
					}
				}
				resp.Reset()
				continue
			}
		}
		if err != nil {
			return c.failed(err, interim == 0, req)
		}
		c.headers.stop()
		c.answered = true
		if c.content {
			c.body.begin(kind, resp.Length, false, &resp.Trailer)
			resp.Body = &c.body
		}
		return nil
	}
}

// start writes the head with what of the body is here, and has a goroutine
// write the rest.
func (c *ClientConn) start(req *exchange.Request, timeout time.Duration) error {
	buffer := c.rd.codec.getBuffer()
	b, err := appendRequest(buffer.b[:0], req)
	if err != nil {
		c.rd.codec.putBuffer(buffer)
		return err
	}
	b, err = c.out.gather(b)
	if err != nil {
		// Nothing has been sent: the request can only be refused.
		c.rd.codec.putBuffer(buffer)
		return &exchange.RoundTripError{Op: "read request body", Err: err}
	}
	_, err = c.rd.conn.Write(b)
	c.rd.codec.putBuffer(buffer)
	if err != nil {
		return &exchange.RoundTripError{Op: "write request", Err: err, Replayable: req.Body == nil || req.Body.Rewind()}
	}
	if c.out.done {
		c.handed.Store(true)
		c.headers.start(timeout)
		return nil
	}
	c.headers.arm(timeout)
	c.sending = make(chan struct{})
	go c.send()
	return nil
}

// send writes the rest of the request body; the goroutine ends with it.
func (c *ClientConn) send() {
	defer close(c.sending)
	buffer := c.rd.codec.getBuffer()
	defer c.rd.codec.putBuffer(buffer)
	c.sendErr = c.out.stream(c.rd.conn, buffer)
	var source *exchange.SourceError
	if errors.As(c.sendErr, &source) {
		// The upstream must see that the request was cut, and nobody needs to
		// wait for its answer.
		c.cut.Store(true)
		exchange.Abort(c.rd.conn)
		return
	}
	c.handed.Store(c.sendErr == nil)
	// An upstream that stopped reading may still have answered.
	c.headers.sent()
}

// readHead reads the head of one response, interim or final.
func (c *ClientConn) readHead(req *exchange.Request, resp *exchange.Response) (bodyKind, error) {
	head, err := c.rd.head(false)
	if err != nil {
		return 0, err
	}
	kind, persists, err := parseResponse(head, req, resp)
	if err != nil {
		return 0, err
	}
	c.persists = persists
	c.content = resp.Status >= 200 && resp.Status != 204 && resp.Status != 304 &&
		req.Method != "HEAD" && resp.Length != exchange.NoBody
	return kind, nil
}

// failed makes the error of an exchange without a response, blaming the client
// where its body was the cause.
func (c *ClientConn) failed(err error, first bool, req *exchange.Request) error {
	c.persists = false
	untouched := first && c.rd.buffered() == 0
	if c.sending != nil {
		if c.cut.Load() {
			<-c.sending
			var source *exchange.SourceError
			if errors.As(c.sendErr, &source) {
				return &exchange.RoundTripError{Op: "read request body", Err: source.Err}
			}
		}
		return &exchange.RoundTripError{Op: "read response", Err: err}
	}
	var bad *exchange.MalformedError
	if errors.As(err, &bad) {
		untouched = false
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &exchange.RoundTripError{Op: "read response", Err: err, Replayable: untouched && (req.Body == nil || req.Body.Rewind())}
}

// Finish ends the exchange: it stops and waits for the sending of a request
// whose response is complete, and reports whether the connection can carry
// another request; if not, the caller must Close. The error is why the request
// could not be sent whole: a *exchange.SourceError where the client cut it, a
// *exchange.SinkError where the upstream did not take it, nil where the
// upstream had answered and the rest was not wanted any more.
func (c *ClientConn) Finish(req *exchange.Request) (reusable bool, err error) {
	if c.sending != nil {
		err = c.join(req)
	}
	c.headers.stop()
	reusable = c.persists && err == nil && c.out.done && c.rd.buffered() == 0 &&
		(!c.content || c.body.Complete())
	if c.rd.buffered() == 0 {
		// What follows a 101 is for Detach.
		c.rd.release()
	}
	c.out.body, c.out.trailer, c.body.trailer = nil, nil, nil
	return reusable, err
}

// join waits for the sender.
func (c *ClientConn) join(req *exchange.Request) error {
	if req.Body.Complete() && c.answered && (!c.content || c.body.Complete()) {
		// Most likely the last write is returning just now.
		timer := time.NewTimer(lastWriteTime)
		defer timer.Stop()
		select {
		case <-c.sending:
			return c.sendErr
		case <-timer.C:
		}
	}
	select {
	case <-c.sending:
	default:
		c.persists = false
		req.Body.Interrupt()
		// A write deadline frees a write that the upstream does not take;
		// failing means that the connection is closed.
		_ = c.rd.conn.SetWriteDeadline(time.Unix(1, 0))
		<-c.sending
		if errors.Is(c.sendErr, exchange.ErrInterrupted) || errors.Is(c.sendErr, os.ErrDeadlineExceeded) {
			// We stopped it: nobody failed.
			return nil
		}
	}
	return c.sendErr
}

// Handed reports whether the whole request was written for the upstream: what
// its client does from then on does not change it. Any goroutine may ask.
func (c *ClientConn) Handed() bool { return c.handed.Load() }

// Sent waits at most d until the request is not being sent any more, and reports
// whether that is so and nobody has cut it: its body belongs to the caller
// again. RoundTrip has returned, Finish was not called yet.
func (c *ClientConn) Sent(d time.Duration) bool {
	if c.sending == nil {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.sending:
	case <-timer.C:
		return false
	}
	var source *exchange.SourceError
	return !errors.As(c.sendErr, &source)
}

// Detach ends HTTP on the connection, after a 101. It gives the connection and
// the bytes of the upstream that were read already.
func (c *ClientConn) Detach() (net.Conn, []byte) { return c.rd.detach() }

// Close closes the connection. Finish must have returned.
func (c *ClientConn) Close() error {
	c.rd.release()
	return c.rd.conn.Close()
}

// A deadline bounds the wait for the head of a response. Where the request is
// still being sent it starts at the end of the sending.
type deadline struct {
	conn    net.Conn
	mu      sync.Mutex
	timeout time.Duration
	armed   bool // waiting for sent
	set     bool // the connection has a read deadline
}

// start starts the time now.
func (d *deadline) start(timeout time.Duration) {
	if timeout > 0 {
		d.mu.Lock()
		d.startLocked(timeout)
		d.mu.Unlock()
	}
}

func (d *deadline) startLocked(timeout time.Duration) {
	// Failing means that the connection is closed, which its reader notices.
	_ = d.conn.SetReadDeadline(time.Now().Add(timeout))
	d.set = true
}

// arm makes sent start the time.
func (d *deadline) arm(timeout time.Duration) {
	d.mu.Lock()
	d.timeout, d.armed = timeout, timeout > 0
	d.mu.Unlock()
}

// sent starts the time if the head is not here yet.
func (d *deadline) sent() {
	d.mu.Lock()
	if d.armed {
		d.armed = false
		d.startLocked(d.timeout)
	}
	d.mu.Unlock()
}

// stop ends the time.
func (d *deadline) stop() {
	d.mu.Lock()
	d.armed = false
	if d.set {
		d.set = false
		_ = d.conn.SetReadDeadline(time.Time{})
	}
	d.mu.Unlock()
}
