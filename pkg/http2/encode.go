package http2

import (
	"strconv"

	"sallyport/pkg/exchange"
)

// checkFields finds a field that must not reach the wire, before the tables of
// HPACK have seen any.
func checkFields(h *exchange.Header) error {
	for i := range h.Len() {
		f := h.At(i)
		if !f.Checked && (f.Name == "" || !all(f.Name, isToken) || !isFieldValue(f.Value)) {
			return exchange.ErrInvalidField
		}
	}
	return nil
}

// checkRequest judges what encodeRequest writes.
func checkRequest(req *exchange.Request) error {
	extended := req.Method == "CONNECT" && req.Upgrade != "" && all(req.Upgrade, isToken)
	if req.Method == "" || !all(req.Method, isToken) || req.Method == "CONNECT" && !extended ||
		req.Path == "" || !all(req.Path, isTarget) || !all(req.Query, isTarget) ||
		!all(req.Authority, isTarget) || !all(req.Scheme, isToken) {
		return exchange.ErrInvalidField
	}
	return checkFields(&req.Header)
}

// sensitive reports whether a value is kept out of the tables of HPACK: because
// its sender kept it out, or because whoever can make us send requests could
// guess it there (RFC 7541 section 7.1). Long cookies cannot be guessed and are
// worth their place.
func sensitive(f *exchange.Field) bool {
	if f.NeverIndexed {
		return true
	}
	switch f.ID {
	case exchange.Authorization, exchange.ProxyAuthorization:
		return true
	case exchange.Cookie, exchange.SetCookie:
		return len(f.Value) < 20
	default:
		return false
	}
}

// encodeRequest appends the head of req, with the fields of HTTP/1 that
// HTTP/2 does not have left out. The lock is held.
func (c *conn) encodeRequest(id uint32, req *exchange.Request, end bool) {
	start := c.beginBlock()
	c.field(":method", req.Method, false)
	if req.Method == "CONNECT" {
		c.field(":protocol", req.Upgrade, false)
	}
	scheme := req.Scheme
	if scheme == "" {
		scheme = "https"
	}
	c.field(":scheme", scheme, false)
	c.field(":authority", req.Authority, false)
	path := req.Path
	if req.HasQuery {
		switch {
		case len(req.Target) == len(path)+1+len(req.Query) && req.Target[0] == '/' && req.Target[:len(path)] == path && req.Target[len(path)+1:] == req.Query:
			path = req.Target
		default:
			path += "?" + req.Query
		}
	}
	c.field(":path", path, false)
	c.encodeFields(&req.Header, req.Length)
	if req.WantsTrailers {
		c.field("te", "trailers", false)
	}
	c.endBlock(start, id, end)
}

// encodeResponse appends the head of resp. The lock is held.
func (c *conn) encodeResponse(id uint32, resp *exchange.Response, length int64, end bool) {
	start := c.beginBlock()
	c.field(":status", statusString(resp.Status), false)
	c.encodeFields(&resp.Header, length)
	c.endBlock(start, id, end)
}

// statusString gives the digits of a status of three.
func statusString(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	default:
		return strconv.Itoa(status)
	}
}

// encodeFields writes the fields that HTTP/2 carries. length is written where
// the field was, or behind the others where it is known and there is content.
func (c *conn) encodeFields(h *exchange.Header, length int64) {
	framed := length < 0
	for i := range h.Len() {
		f := h.At(i)
		switch {
		case f.ID == exchange.OtherName:
			c.field(lowered(f), f.Value, f.NeverIndexed)
		case f.ID == exchange.ContentLength || f.ID == exchange.TransferEncoding:
			if !framed {
				framed = true
				c.field("content-length", lengthString(f, length), false)
			}
		case f.ID == exchange.Host || f.ID == exchange.AltSvc || f.ID.HopByHop():
			// :authority stands for Host; the others concern nobody behind us.
		default:
			c.field(lowered(f), f.Value, sensitive(f))
		}
	}
	if !framed && length > 0 {
		c.field("content-length", strconv.FormatInt(length, 10), false)
	}
}

// lengthString gives the field's own text where it says the same.
func lengthString(f *exchange.Field, length int64) string {
	if f.ID == exchange.ContentLength {
		if n, ok := exchange.ParseLength(f.Value); ok && n == length {
			return f.Value
		}
	}
	return strconv.FormatInt(length, 10)
}

// encodeTrailer appends a trailer section, which ends the stream.
func (c *conn) encodeTrailer(id uint32, h *exchange.Header) {
	start := c.beginBlock()
	for i := range h.Len() {
		f := h.At(i)
		if !f.ID.HopByHop() && f.ID != exchange.TransferEncoding {
			c.field(lowered(f), f.Value, sensitive(f))
		}
	}
	c.endBlock(start, id, true)
}

func (c *conn) field(name, value string, sensitive bool) {
	c.out.b = c.enc.appendField(c.out.b, name, value, sensitive)
}

// beginBlock leaves room for the header of the frame that carries the block.
func (c *conn) beginBlock() (start int) {
	b := c.output()
	start = len(b)
	c.out.b = c.enc.appendUpdate(appendFrameHeader(b, 0, frameHeaders, 0, 0))
	return start
}

// endBlock makes frames of the block that begins at start: one, or as many as
// the peer's frame size demands.
func (c *conn) endBlock(start int, id uint32, end bool) {
	var flags uint8
	if end {
		flags = flagEndStream
	}
	size := len(c.out.b) - start - frameHeaderLen
	if size <= c.peerFrame {
		appendFrameHeader(c.out.b[:start], size, frameHeaders, flags|flagEndHeaders, id)
		return
	}
	rest := append([]byte(nil), c.out.b[start+frameHeaderLen:]...)
	b := c.out.b[:start]
	typ := frameHeaders
	for len(rest) > 0 {
		n := min(len(rest), c.peerFrame)
		if n == len(rest) {
			flags |= flagEndHeaders
		}
		b = append(appendFrameHeader(b, n, typ, flags, id), rest[:n]...)
		rest, typ, flags = rest[n:], frameContinuation, 0
	}
	c.out.b = b
}
