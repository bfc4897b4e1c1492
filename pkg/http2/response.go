package http2

import "sallyport/pkg/exchange"

// bodiless reports whether a response with that status to that method has no
// content, whatever its fields say (RFC 9110 section 6.4.1).
func bodiless(method string, status int) bool {
	return method == "HEAD" || status == 204 || status == 304 || status < 200
}

// tunnels reports whether the stream carries another protocol behind such a
// response.
func tunnels(method string, status int) bool {
	return method == "CONNECT" && status >= 200 && status < 300
}

// response fills resp from the block, which is an interim or final response to
// a request with that method (RFC 9113 section 8.3.2). end says that the stream
// ended with it.
func (b *block) response(resp *exchange.Response, method string, end bool) error {
	switch {
	case b.over:
		return malformed("header section over 64 KiB or 256 fields")
	case b.bad != nil:
		return b.bad
	case b.pseudo != hasStatus:
		return malformed("pseudo-header fields that are not those of a response")
	case b.status == 101:
		// RFC 9113 section 8.6.
		return malformed("101 in HTTP/2")
	case b.status < 200 && end:
		return malformed("interim response that ends the stream")
	}
	resp.Version, resp.Status = exchange.HTTP2, b.status
	noContent := b.status < 200 || b.status == 204 || tunnels(method, b.status)
	for i := range b.fields {
		switch b.fields[i].ID {
		case exchange.AltSvc:
		case exchange.ContentLength:
			if !noContent {
				resp.Header.Append(b.fields[i])
			}
		default:
			resp.Header.Append(b.fields[i])
		}
	}
	switch {
	case tunnels(method, b.status):
		resp.Length = exchange.UnknownLength
	case noContent:
		resp.Length = exchange.NoBody
	case bodiless(method, b.status):
		resp.Length = max(b.length, 0)
	case end && b.length > 0:
		return malformed("stream shorter than its Content-Length")
	case end:
		resp.Length = exchange.NoBody
	default:
		resp.Length = b.length
	}
	return nil
}
