package http2

import (
	"context"
	"net"
	"time"

	"sallyport/pkg/exchange"
)

// ClientOptions are those of the client side of a connection.
type ClientOptions struct {
	// StallTimeout is how long the server may keep its windows shut while a
	// request waits; 0 is a minute.
	StallTimeout time.Duration
}

// PeerSettings are what a server said about itself.
type PeerSettings struct {
	// ExtendedConnect: streams of other protocols may be opened (RFC 8441).
	ExtendedConnect bool
	// MaxStreams is how many streams may be open at a time.
	MaxStreams uint32
}

// A ClientConn sends requests to one server, many at a time. Its methods may
// be called from any goroutine.
type ClientConn struct{}

// Client gives the client side of a connection. It starts nothing: the preface
// goes with the first request, and from then on a goroutine of the connection's
// own reads, until Close.
func (c *Codec) Client(conn net.Conn, o ClientOptions) *ClientConn { return &ClientConn{} }

// Start sends the preface now and waits for the server's settings. The error is
// that of ctx or why the connection ended; then the caller must Close.
func (c *ClientConn) Start(ctx context.Context) (PeerSettings, error) { return PeerSettings{}, nil }

// Open reserves a place for one stream, which RoundTrip must use or Finish give
// back. The errors, ErrStreamsExhausted and ErrGoingAway, mean that nothing was
// sent.
func (c *ClientConn) Open() (*ClientStream, error) { return &ClientStream{}, nil }

// Usable reports whether Open could succeed now or once a stream has ended: the
// connection stands and the server has not said GOAWAY.
func (c *ClientConn) Usable() bool { return false }

// Streams gives the number of places that are taken.
func (c *ClientConn) Streams() int { return 0 }

// ExtendedConnect reports whether the server allows streams of other protocols
// (RFC 8441); good after Start.
func (c *ClientConn) ExtendedConnect() bool { return false }

// LastActive gives when the last stream ended, or the connection began.
func (c *ClientConn) LastActive() time.Time { return time.Time{} }

// Done is closed when the connection carries nothing any more.
func (c *ClientConn) Done() <-chan struct{} { return nil }

// Close ends the connection and every stream on it, and waits for the
// connection's goroutines.
func (c *ClientConn) Close() error { return nil }

// A ClientStream carries one exchange. One goroutine uses it; Interrupt may be
// called from any. The order is RoundTrip, reading resp.Body, Finish.
type ClientStream struct{}

// RoundTrip sends req, head and first content together, and waits for the head
// of the final response, which it puts into resp, after a reset. It returns
// while the rest of the request is still being sent where the server answers
// early, and always for an extended CONNECT. req and resp must stay until
// Finish. A failure is a *exchange.RoundTripError, except ErrInvalidField and
// errors of Informational; Finish must be called all the same, and before a
// refusal is written to the client: until then the body may be in use.
func (s *ClientStream) RoundTrip(req *exchange.Request, resp *exchange.Response, opts exchange.Options) error {
	return nil
}

// Finish ends the exchange: it stops and waits for the sending of a request
// whose response is complete, resets the stream where either side is not, and
// gives its place back. reusable says that the connection goes on. The error is
// why the request could not be sent whole: a *exchange.SourceError where the
// client cut it, a *exchange.SinkError where the server did not take it, nil
// where the server had answered and the rest was not wanted any more.
func (s *ClientStream) Finish(req *exchange.Request) (reusable bool, err error) { return false, nil }

// Sent gives the bytes of content of the request that were handed to the
// connection; good after Finish.
func (s *ClientStream) Sent() int64 { return 0 }

// Interrupt ends the stream from another goroutine: RoundTrip and reads of the
// response fail. It never waits, and does nothing after Finish.
func (s *ClientStream) Interrupt() {}
