// Package exchange holds one HTTP request and its response apart from the
// codec that carries them, and the pipeline of stages that a rule runs over
// them. HTTP/1.1 and HTTP/2 fill and write the same types.
package exchange

import "sync"

// A Version is the version of HTTP in which a message came.
type Version uint8

// The versions. The zero value is no version.
const (
	NoVersion Version = iota
	HTTP10
	HTTP11
	HTTP2
)

// String gives the version as audit events print it: "1.0", "1.1", "2", ""
// for none.
func (v Version) String() string {
	switch v {
	case HTTP10:
		return "1.0"
	case HTTP11:
		return "1.1"
	case HTTP2:
		return "2"
	default:
		return ""
	}
}

// A Form is the form of a request target (RFC 9112 section 3.2).
type Form uint8

// The forms. The zero value is the usual one.
const (
	// OriginForm is a path and a query: the host is in Authority.
	OriginForm Form = iota
	// AbsoluteForm is a whole URI, as sent to a proxy.
	AbsoluteForm
	// AuthorityForm is host:port, for CONNECT only.
	AuthorityForm
	// AsteriskForm is "*", for OPTIONS only.
	AsteriskForm
)

// Lengths that are not a count of bytes.
const (
	// NoBody is the Length of a message that has none, or an empty one.
	NoBody int64 = 0
	// UnknownLength is the Length of a body whose end is not known before it
	// comes: chunked, until close, or a stream of HTTP/2.
	UnknownLength int64 = -1
)

// A Request is one request as the client means it: the strings hold what was
// received, byte for byte. They stay valid after Reset and may be kept.
// Hop-by-hop fields are not in Header: what a stage or the policy sees is what
// is forwarded.
type Request struct {
	Version Version
	Method  string
	Form    Form
	// Target is the request target as received.
	Target string
	// Scheme is "http" or "https" in absolute form, else "" until whoever owns
	// the connection fills it.
	Scheme string
	// Authority is the host, with a port where one was written, that the
	// request names: from the target in absolute and authority form, else from
	// Host. "" only for HTTP/1.0 without Host. A writer makes Host from it.
	Authority string
	// Path is the path as received, without the query: "/" where an absolute
	// form has none, "*" in asterisk form, "" in authority form.
	Path string
	// Query is what follows the first "?", as received; HasQuery tells an empty
	// one from none.
	Query    string
	HasQuery bool
	Header   Header
	// Trailer is filled when Body has given io.EOF.
	Trailer Header
	// Body is nil without one.
	Body Body
	// Length is the declared length in bytes, NoBody or UnknownLength.
	Length int64
	// Upgrade holds the protocols that the client offers to switch to ("" for
	// none), without those that would carry HTTP out of sight (HTTP, h2c, TLS).
	// Clear it to forward the request without the offer.
	Upgrade string
	// ExpectContinue says that the client waits for a 100 before the body.
	ExpectContinue bool
	// WantsTrailers says that the client declared TE: trailers.
	WantsTrailers bool
	// Close says that the connection ends with this exchange by the client's
	// wish or version.
	Close bool
}

// Reset empties the request for the next one.
func (r *Request) Reset() {
	header, trailer := r.Header, r.Trailer
	header.Reset()
	trailer.Reset()
	*r = Request{Header: header, Trailer: trailer}
}

// A Response is one response as the upstream, or sallyport itself, means it.
type Response struct {
	Version Version
	// Status is the three-digit code, 100 to 999.
	Status int
	// Phrase is the reason phrase as received, "" for the usual one.
	Phrase string
	Header Header
	// Trailer is filled when Body has given io.EOF.
	Trailer Header
	// Body is nil without one: also for HEAD, 1xx, 204 and 304.
	Body Body
	// Length is the declared length in bytes, NoBody or UnknownLength. For a
	// response to HEAD and for 304 it is what Content-Length said, and Body is
	// nil all the same.
	Length int64
	// Upgrade is the protocol that a 101 switches to, or those that a 426
	// demands.
	Upgrade string
	// Local says that sallyport made the response itself.
	Local bool
	// Close says that the sender ends its connection after this response.
	Close bool
}

// Reset empties the response for the next one.
func (r *Response) Reset() {
	header, trailer := r.Header, r.Trailer
	header.Reset()
	trailer.Reset()
	*r = Response{Header: header, Trailer: trailer}
}

// A Pool lends exchanges, so that an idle connection holds none. The zero
// value is ready.
type Pool struct{ pool sync.Pool }

// Get lends an empty exchange.
func (p *Pool) Get() *Exchange {
	if x, ok := p.pool.Get().(*Exchange); ok {
		return x
	}
	return new(Exchange)
}

// Put takes an exchange back; nobody may use it any longer.
func (p *Pool) Put(x *Exchange) {
	x.Reset()
	p.pool.Put(x)
}
