package http1

import (
	"io"
	"net/http"
	"strconv"

	"sallyport/pkg/exchange"
)

// appendRequest appends the head of req for an upstream, in the order and case
// of the client. Framing, Host and Connection are written from what was
// understood, at the place where the client had them.
func appendRequest(b []byte, req *exchange.Request) ([]byte, error) {
	if !isTokenString(req.Method) || req.Method == "CONNECT" || req.Path == "" ||
		!all(req.Path, isTarget) || !all(req.Query, isTarget) || !all(req.Authority, isTarget) ||
		!all(req.Upgrade, isValue) {
		return nil, exchange.ErrInvalidField
	}
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, req.Path...)
	if req.HasQuery {
		b = append(b, '?')
		b = append(b, req.Query...)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	if req.Header.Find(exchange.Host) == nil {
		b = appendField(b, "Host", req.Authority)
	}
	hosts, framed := 0, false
	for i := range req.Header.Len() {
		f := req.Header.At(i)
		switch {
		case f.ID == exchange.Host:
			if hosts++; hosts == 1 {
				b = appendField(b, f.Name, req.Authority)
			}
		case f.ID == exchange.ContentLength || f.ID == exchange.TransferEncoding:
			if !framed {
				framed = true
				b = appendFraming(b, f, req.Length)
			}
		case f.ID.HopByHop():
			// The parser removed them; one that a stage added concerns nobody.
		case !validField(f):
			return nil, exchange.ErrInvalidField
		default:
			b = appendField(b, f.Name, f.Value)
		}
	}
	if !framed && req.Length != exchange.NoBody {
		b = appendFraming(b, nil, req.Length)
	}
	switch {
	case req.Upgrade != "" && req.WantsTrailers:
		b = append(b, "Connection: Upgrade, TE\r\n"...)
	case req.Upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
	case req.WantsTrailers:
		b = append(b, "Connection: TE\r\n"...)
	}
	if req.Upgrade != "" {
		b = appendField(b, "Upgrade", req.Upgrade)
	}
	if req.WantsTrailers {
		b = append(b, "TE: trailers\r\n"...)
	}
	return append(b, '\r', '\n'), nil
}

// responseFraming is how a response is delimited for its client.
type responseFraming uint8

const (
	noContent     responseFraming = iota // no body and no framing field
	lengthKnown                          // Content-Length
	chunkedCoding                        // Transfer-Encoding: chunked
	untilClose                           // the end of the connection (HTTP/1.0 clients)
)

// frameResponse chooses how resp is delimited, and whether a body follows.
func frameResponse(req *exchange.Request, resp *exchange.Response) (framing responseFraming, content bool) {
	switch {
	case resp.Status < 200 || resp.Status == 204 || req.Method == "CONNECT" && resp.Status < 300:
		return noContent, false
	case req.Method == "HEAD" || resp.Status == 304:
		// What a GET would have had, as far as the upstream said it.
		switch {
		case resp.Length == exchange.UnknownLength && req.Version != exchange.HTTP10 &&
			resp.Header.Find(exchange.TransferEncoding) != nil && resp.Status != 304:
			return chunkedCoding, false
		case resp.Length > 0 || resp.Length == 0 && resp.Header.Find(exchange.ContentLength) != nil:
			return lengthKnown, false
		default:
			return noContent, false
		}
	case resp.Length >= 0:
		return lengthKnown, resp.Length > 0
	case req.Version == exchange.HTTP10:
		return untilClose, true
	default:
		return chunkedCoding, true
	}
}

// appendResponse appends the head of resp for a client.
func appendResponse(b []byte, req *exchange.Request, resp *exchange.Response, framing responseFraming, closing bool) ([]byte, error) {
	if resp.Status < 100 || resp.Status > 999 || !all(resp.Phrase, isValue) || !all(resp.Upgrade, isValue) {
		return nil, exchange.ErrInvalidField
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(resp.Status), 10)
	b = append(b, ' ')
	if resp.Phrase == "" && resp.Local {
		b = append(b, http.StatusText(resp.Status)...)
	}
	b = append(b, resp.Phrase...)
	b = append(b, '\r', '\n')
	framed := framing == noContent || framing == untilClose
	length := resp.Length
	if framing == chunkedCoding {
		length = exchange.UnknownLength
	}
	for i := range resp.Header.Len() {
		f := resp.Header.At(i)
		switch {
		case f.ID == exchange.ContentLength || f.ID == exchange.TransferEncoding:
			if !framed {
				framed = true
				b = appendFraming(b, f, length)
			}
		case f.ID.HopByHop() || f.ID == exchange.AltSvc:
		case !validField(f):
			return nil, exchange.ErrInvalidField
		default:
			b = appendField(b, f.Name, f.Value)
		}
	}
	if !framed {
		b = appendFraming(b, nil, length)
	}
	switch {
	case resp.Status == 101 || resp.Status == 426 && resp.Upgrade != "" && req.Version != exchange.HTTP10:
		b = append(b, "Connection: Upgrade"...)
		if closing && resp.Status != 101 {
			b = append(b, ", close"...)
		}
		b = append(b, '\r', '\n')
		b = appendField(b, "Upgrade", resp.Upgrade)
	case resp.Status < 200 || req.Method == "CONNECT" && resp.Status < 300:
	case closing:
		b = append(b, "Connection: close\r\n"...)
	case req.Version == exchange.HTTP10:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, '\r', '\n'), nil
}

// appendFraming writes the framing field; like is the one that it replaces,
// whose case is kept where the kind is the same.
func appendFraming(b []byte, like *exchange.Field, length int64) []byte {
	id := exchange.ContentLength
	if length == exchange.UnknownLength {
		id = exchange.TransferEncoding
	}
	name := id.String()
	if like != nil && like.ID == id {
		name = like.Name
	}
	b = append(b, name...)
	b = append(b, ':', ' ')
	if length == exchange.UnknownLength {
		b = append(b, "chunked"...)
	} else {
		b = strconv.AppendInt(b, length, 10)
	}
	return append(b, '\r', '\n')
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// validField keeps what a stage adds from becoming another field or message.
func validField(f *exchange.Field) bool {
	return f.Checked || isTokenString(f.Name) && all(f.Value, isValue)
}

// chunkRoom is what a chunk in a write buffer needs besides its content: a
// size of up to four digits with its CRLF before, CRLF behind.
const (
	chunkPrefix = len("ffff\r\n")
	chunkRoom   = chunkPrefix + len("\r\n")
	lastChunk   = "0\r\n"
)

// An outgoing is the body of one message on its way to a connection.
type outgoing struct {
	body    exchange.Body
	chunked bool
	length  int64 // declared, or exchange.UnknownLength
	trailer *exchange.Header
	sent    int64
	done    bool
}

// gather appends to b, without growing it by content, what the body can give
// without waiting.
func (o *outgoing) gather(b []byte) ([]byte, error) {
	for !o.done {
		p, last := o.body.Buffered()
		room := cap(b) - len(b)
		if o.chunked {
			room -= chunkRoom + len(lastChunk)
		}
		if len(p) > 0 && room <= 0 || len(p) == 0 && !last {
			return b, nil
		}
		n := min(len(p), max(room, 0))
		if err := o.count(n); err != nil {
			return b, err
		}
		if n > 0 && o.chunked {
			b = appendChunkLine(b, n)
		}
		b = append(b, p[:n]...)
		if n > 0 && o.chunked {
			b = append(b, '\r', '\n')
		}
		o.body.Discard(n)
		if last && n == len(p) {
			return o.finish(b)
		}
		if o.fulfilled() {
			o.done = true
		}
	}
	return b, nil
}

// count takes note of n bytes of content and refuses more than was declared:
// the rest would be read as the next message.
func (o *outgoing) count(n int) error {
	o.sent += int64(n)
	if o.length >= 0 && o.sent > o.length {
		return &exchange.SourceError{Err: exchange.ErrBodyLength}
	}
	return nil
}

// fulfilled reports whether the declared length has been reached.
func (o *outgoing) fulfilled() bool { return o.length >= 0 && o.sent == o.length }

// finish appends what ends the body.
func (o *outgoing) finish(b []byte) ([]byte, error) {
	o.done = true
	if o.length >= 0 && o.sent != o.length {
		return b, &exchange.SourceError{Err: exchange.ErrBodyLength}
	}
	if !o.chunked {
		return b, nil
	}
	b = append(b, lastChunk...)
	for i := range o.trailer.Len() {
		f := o.trailer.At(i)
		if !validField(f) {
			return b, &exchange.SourceError{Err: exchange.ErrInvalidField}
		}
		b = appendField(b, f.Name, f.Value)
	}
	return append(b, '\r', '\n'), nil
}

// stream writes the rest of the body as it comes. Each read is one write: a
// piece never waits for the next one.
func (o *outgoing) stream(w io.Writer, buffer *writeBuffer) error {
	for !o.done {
		b, err := o.next(buffer.b[:0])
		if err != nil {
			return err
		}
		if len(b) == 0 {
			continue
		}
		if _, err := w.Write(b); err != nil {
			return &exchange.SinkError{Err: err}
		}
	}
	return nil
}

// next waits for content and gives it framed, in b.
func (o *outgoing) next(b []byte) ([]byte, error) {
	from, to := 0, cap(b)
	if o.chunked {
		from, to = chunkPrefix, cap(b)-chunkRoom-len(lastChunk)-len("\r\n")
	}
	space := b[:cap(b)]
	n, err := o.body.Read(space[from:to])
	if cerr := o.count(n); cerr != nil {
		return nil, cerr
	}
	switch {
	case err == io.EOF:
		if n == 0 {
			return o.finish(b)
		}
	case err != nil && n == 0:
		return nil, &exchange.SourceError{Err: err}
	}
	if !o.chunked {
		b = space[:n]
	} else if n > 0 {
		// The size line is set flush before the content.
		var line [chunkPrefix]byte
		size := appendChunkLine(line[:0], n)
		start := from - len(size)
		copy(space[start:], size)
		b = append(space[start:from+n], '\r', '\n')
	}
	if p, last := o.body.Buffered(); last && len(p) == 0 && n > 0 {
		return o.finish(b)
	}
	if o.fulfilled() {
		o.done = true
	}
	return b, nil
}
