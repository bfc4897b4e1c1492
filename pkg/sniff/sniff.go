// Package sniff finds out from the first bytes of a connection what is spoken
// on it, without taking them away: the connection that it gives replays them.
package sniff

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Protocol is what the client's first bytes are.
type Protocol uint8

// The protocols. The zero value is what nothing else fits.
const (
	// Other is anything else, also a client that says nothing in time: then
	// the server speaks first, or nobody does.
	Other Protocol = iota
	// TLS is a ClientHello.
	TLS
	// HTTP1 is what a parser of HTTP/1 could take for a request, well-formed
	// or not: it must meet the strict one.
	HTTP1
	// HTTP2 is the connection preface of HTTP/2 with prior knowledge.
	HTTP2
)

// String gives the protocol's name in lower case.
func (p Protocol) String() string {
	switch p {
	case Other:
		return "other"
	case TLS:
		return "tls"
	case HTTP1:
		return "http/1"
	case HTTP2:
		return "http/2"
	default:
		panic(fmt.Sprintf("sniff: Protocol(%d) is not in the closed set", uint8(p)))
	}
}

const (
	// firstRead is the room for the first read: a usual hello or head fits.
	firstRead = 4 << 10
	// maxLine bounds how much of a first line is read to tell HTTP from other
	// protocols, in bytes. Longer ones that may yet be HTTP are taken for it.
	maxLine = 16 << 10
	// maxSSL2 is the highest first byte of a hello in the form of SSL 2 that
	// servers take for one of TLS 1.2 (RFC 5246 appendix E.2). Nobody needs it, and
	// it carries no name: it is refused.
	maxSSL2 = 0xc1
	// preface is the client's connection preface (RFC 9113 section 3.4).
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// A Result is what was found.
type Result struct {
	Protocol Protocol
	// Silent says that the client sent nothing in time.
	Silent bool
	// Closed says that the client ended its side before enough was here to
	// tell.
	Closed bool
	// Hello is the ClientHello of TLS, valid if HelloErr is nil.
	Hello ClientHello
	// HelloErr says why a connection that begins like TLS has no valid
	// ClientHello, a *HelloError. It must be refused: nobody knows what name
	// another parser would read.
	HelloErr error
}

// A Sniffer lends the memory that sniffing needs. The zero value is ready. It
// must not be copied after first use.
type Sniffer struct {
	pool sync.Pool
	held atomic.Int64 // by what did not fit into a buffer of the pool, in bytes
}

type buffer [firstRead]byte

func (s *Sniffer) get() *buffer {
	if b, ok := s.pool.Get().(*buffer); ok {
		return b
	}
	return new(buffer)
}

// Sniff reads from conn until it knows the protocol, for at most timeout, and
// gives a connection that replays what was read. prefix was read from conn
// before, for instance behind a CONNECT. Bounds and the timeout lead to a
// result, not to an error; the error is that of conn. It uses the read
// deadline of conn and clears it.
func (s *Sniffer) Sniff(conn net.Conn, prefix []byte, timeout time.Duration) (*Conn, Result, error) {
	c := &Conn{Conn: conn, sniffer: s, lent: s.get()}
	if c.peeked = c.lent[:0]; len(prefix) > firstRead && !c.enlarge(len(prefix)) {
		c.peeked = prefix
		return c, crowded(prefix), nil
	}
	c.peeked = append(c.peeked, prefix...)
	if timeout > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
			c.release()
			return nil, Result{}, err
		}
	}
	result, err := c.sniff()
	if err != nil {
		c.release()
		return nil, Result{}, err
	}
	if timeout > 0 {
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			c.release()
			return nil, Result{}, err
		}
	}
	if len(c.peeked) == 0 {
		c.release()
	}
	return c, result, nil
}

// Replay gives a connection that gives prefix before what conn has to say.
func Replay(conn net.Conn, prefix []byte) *Conn {
	return &Conn{Conn: conn, peeked: prefix}
}

func (c *Conn) sniff() (Result, error) {
	for {
		p := c.peeked
		protocol, known := classify(p)
		if known && protocol == TLS {
			return c.sniffHello()
		}
		if known {
			return Result{Protocol: protocol}, nil
		}
		if err := c.more(len(p) + 1); err != nil {
			if err == errCrowded {
				return crowded(c.peeked), nil
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return late(p), nil
			}
			return ended(Result{Protocol: undecided(p)}, err)
		}
	}
}

// sniffHello reads until the ClientHello is whole or wrong.
func (c *Conn) sniffHello() (Result, error) {
	var a assembly
	for {
		hello, need, err := a.readHello(c.peeked)
		switch {
		case err != nil:
			return Result{Protocol: TLS, HelloErr: err}, nil
		case need == 0:
			return Result{Protocol: TLS, Hello: hello}, nil
		}
		if err := c.more(need); err != nil {
			if err == errCrowded {
				return crowded(c.peeked), nil
			}
			return ended(Result{Protocol: TLS, HelloErr: helloError(alertDecodeError, "does not end")}, err)
		}
	}
}

// crowded is the result where there is no memory for more of what began with p.
// A hello is refused, a request line is left to its own parser, which has bounds
// of its own.
func crowded(p []byte) Result {
	if protocol, known := classify(p); known && protocol == TLS {
		return Result{Protocol: TLS, HelloErr: helloError(alertInternalError, "too large while too many others are")}
	}
	return Result{Protocol: HTTP1}
}

// late is the result where the time has passed in which p should have become
// enough to tell. What may yet become a request is left to the strict parser: who
// sends the rest later must not have it forwarded unseen.
func late(p []byte) Result {
	switch {
	case len(p) == 0:
		return Result{Silent: true}
	case p[0] == recordHandshake, p[0] >= 0x80 && p[0] <= maxSSL2:
		return Result{Protocol: TLS, HelloErr: helloError(alertDecodeError, "does not end")}
	default:
		return Result{Protocol: HTTP1}
	}
}

// ended makes a result of the end of the client's patience or ours.
func ended(r Result, err error) (Result, error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return r, nil
	case err == io.EOF:
		r.Silent, r.Closed = false, true
		return r, nil
	default:
		return Result{}, err
	}
}

// more reads until at least need bytes are here or the connection gives no
// more.
func (c *Conn) more(need int) error {
	for len(c.peeked) < need {
		if len(c.peeked) == cap(c.peeked) {
			// Grown step by step: an announced length alone costs nothing.
			if !c.grow() {
				return errCrowded
			}
		}
		n, err := c.Conn.Read(c.peeked[len(c.peeked):cap(c.peeked)])
		c.peeked = c.peeked[:len(c.peeked)+n]
		if err != nil && n == 0 {
			return err
		}
	}
	return nil
}

// classify judges the first bytes; known is false while more are needed.
func classify(p []byte) (protocol Protocol, known bool) {
	switch {
	case len(p) == 0:
		return Other, false
	case p[0] == recordHandshake:
		if len(p) == 1 {
			return Other, false
		}
		if p[1] == 3 {
			return TLS, true
		}
		return Other, true
	case p[0] >= 0x80 && p[0] <= maxSSL2 && (len(p) < 3 || p[2] == 1):
		if len(p) < 4 {
			return Other, false
		}
		if p[3] == 3 {
			return TLS, true
		}
		return Other, true
	case len(p) >= len(preface) && string(p[:len(preface)]) == preface:
		return HTTP2, true
	case len(p) < len(preface) && string(p) == preface[:len(p)]:
		return Other, false
	default:
		return classifyLine(p)
	}
}

// classifyLine tells HTTP/1 from other protocols. It errs to the side of
// HTTP: lenient servers skip empty lines and spaces, accept lower case, methods of
// any length and HTTP/0.9, and what they would take for a request must be judged
// as one.
func classifyLine(p []byte) (Protocol, bool) {
	line := trimSpace(p)
	if len(line) == 0 {
		return HTTP1, len(p) > maxLine
	}
	method := 0
	for method < len(line) && isMethodByte(line[method]) {
		method++
	}
	switch {
	case method == len(line):
		return HTTP1, len(p) > maxLine
	case method == 0 || !separates(line[:method], line[method]):
		return Other, true
	}
	end := bytes.IndexByte(line, '\n')
	if end >= 0 {
		line = line[:end]
	}
	switch {
	case containsHTTP(line) || isHTTPMethod(line[:method]) && looksLikeTarget(line[method:]):
		return HTTP1, true
	case end >= 0:
		return Other, true
	default:
		// Too long to go on looking for the version.
		return HTTP1, len(p) > maxLine
	}
}

// isSpace reports whether some server skips a byte between the words of a
// request line (RFC 9112 section 3), Python's str.split among them.
func isSpace(c byte) bool {
	return c >= '\t' && c <= '\r' || c >= 0x1c && c <= ' ' || c == 0x85 || c == 0xa0
}

func trimSpace(p []byte) []byte {
	for len(p) > 0 && isSpace(p[0]) {
		p = p[1:]
	}
	return p
}

// separates reports whether a byte may stand behind a method. The unusual ones
// also follow the first byte of binary protocols, as the length in LDAP; who
// takes them for spaces knows a few methods only.
func separates(method []byte, c byte) bool {
	return c == ' ' || c == '\t' || isSpace(c) && isHTTPMethod(method)
}

// containsHTTP looks for the name of the protocol in any case, and for those
// that parsers of HTTP take besides (llhttp).
func containsHTTP(line []byte) bool {
	for {
		slash := bytes.IndexByte(line, '/')
		if slash < 0 {
			return false
		}
		for _, name := range [...]string{"http", "rtsp", " ice"} {
			if n := len(name); slash >= n && strings.EqualFold(string(line[slash-n:slash]), name) {
				return true
			}
		}
		line = line[slash+1:]
	}
}

// undecided says what to take bytes for behind which nothing comes: a part of a
// request line is HTTP.
func undecided(p []byte) Protocol {
	line := trimSpace(p)
	method := 0
	for method < len(line) && isMethodByte(line[method]) {
		method++
	}
	if method < len(line) && isSpace(line[method]) && isHTTPMethod(line[:method]) {
		return HTTP1
	}
	return Other
}

func isMethodByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}

// isHTTPMethod tells the methods with which HTTP/0.9 and careless parsers must
// be expected.
func isHTTPMethod(p []byte) bool {
	switch string(bytes.ToUpper(p)) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return true
	default:
		return false
	}
}

func looksLikeTarget(p []byte) bool {
	p = trimSpace(p)
	return len(p) > 0 && (p[0] == '/' || p[0] == '*' || bytes.Contains(p, []byte("://")))
}
