package http2

import (
	"context"
	"net"
	"time"

	"sallyport/pkg/exchange"
)

// ServerOptions are those of the server side of a connection.
type ServerOptions struct {
	// Exchanges lends the exchange of each stream; it is required.
	Exchanges *exchange.Pool
	// ExtendedConnect tells the client that it may open streams of other
	// protocols (RFC 8441).
	ExtendedConnect bool
	// MaxStreams bounds the streams that are open at a time; 0 is 128.
	MaxStreams uint32
	// StallTimeout is how long the client may keep its windows shut while a
	// response waits; 0 is a minute.
	StallTimeout time.Duration
}

// A ServerConn serves the streams of one client. Its methods may be called
// from any goroutine.
type ServerConn struct{}

// A ServerStream is one request on its way. It is good until handle returns.
// WriteInformational and WriteResponse belong to one goroutine, which may be
// another one than that which reads the request's body.
type ServerStream struct{}

// Server gives the server side of a connection. It starts nothing and reads
// nothing.
func (c *Codec) Server(conn net.Conn, o ServerOptions) *ServerConn { return &ServerConn{} }

// Serve reads the client's preface and streams until the connection ends, and
// runs handle for each request on a goroutine of its own. It returns when all
// of them have returned and the connection is closed: nil after a clean end, by
// the client between two streams or by Drain, else why: a *ConnError where the
// client broke the protocol, a *GoAwayError, ErrClosed after Abort, or the
// connection's own. The end of ctx is an Abort.
func (s *ServerConn) Serve(ctx context.Context, handle func(*ServerStream)) error { return ErrClosed }

// Drain ends the connection gracefully (RFC 9113 section 6.8): open streams
// finish, later ones are refused as unprocessed, and Serve returns. It does not
// wait.
func (s *ServerConn) Drain() {}

// Abort ends the connection at once, so that the client takes what it got for
// cut. It does not wait.
func (s *ServerConn) Abort() {}

// Streams gives the number of requests whose handle runs.
func (s *ServerConn) Streams() int { return 0 }

// LastActive gives when the last stream ended, or the connection began.
func (s *ServerConn) LastActive() time.Time { return time.Time{} }

// Exchange gives the stream's exchange. Its Request is filled.
func (s *ServerStream) Exchange() *exchange.Exchange { return nil }

// Malformed gives what is wrong with a request that must be refused with its
// status; its Request holds what was understood. Nil: nothing is.
func (s *ServerStream) Malformed() *exchange.MalformedError { return nil }

// ID gives the stream's identifier.
func (s *ServerStream) ID() uint32 { return 0 }

// WriteInformational sends an interim response (1xx but not 101) on. Errors
// are as for WriteResponse.
func (s *ServerStream) WriteInformational(req *exchange.Request, resp *exchange.Response) error {
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
	return 0, nil
}

// Reset ends the stream at once, without or within its response.
func (s *ServerStream) Reset(code Code) {}

// OnCancel has f called, at most once, when the client resets the stream or
// the connection ends while handle runs; at once where that has happened
// already. f must not block and must not call methods of this stream other than
// ID and Cancelled. After OnCancel(nil), and after handle has returned, f is
// neither called nor running.
func (s *ServerStream) OnCancel(f func()) {}

// Cancelled reports whether nobody waits for the response any more.
func (s *ServerStream) Cancelled() bool { return false }
