package http2

import (
	"strings"

	"sallyport/pkg/exchange"
)

// request fills req from the block (RFC 9113 section 8.3.1). end says that the
// stream ended with it. On an error req holds what was understood.
func (b *block) request(req *exchange.Request, end, extended bool) error {
	req.Version = exchange.HTTP2
	req.Method, req.Scheme, req.Authority = methodString(b.method), b.scheme, b.authority
	if strings.HasPrefix(b.path, "/") {
		req.Path, req.Query, req.HasQuery = strings.Cut(b.path, "?")
	}
	req.Target = b.path
	for i := range b.fields {
		req.Header.Append(b.fields[i])
	}
	if b.over {
		return malformed("header section over 64 KiB or 256 fields")
	}
	if b.bad != nil {
		return b.bad
	}
	if err := b.target(req, extended); err != nil {
		return err
	}
	if err := b.requestAuthority(req); err != nil {
		return err
	}
	if b.cookies > 1 {
		joinCookies(&req.Header)
	}
	req.WantsTrailers = b.wantsTrailers
	switch {
	case req.Method == "CONNECT":
		if b.length > 0 {
			// Content in CONNECT has no meaning (RFC 9110 section 9.3.6).
			return malformed("CONNECT with content")
		}
		req.Length = exchange.UnknownLength
	case end && b.length > 0:
		return malformed("stream shorter than its Content-Length")
	case end:
		req.Length = exchange.NoBody
	default:
		req.Length = b.length
		req.ExpectContinue = b.expect && b.length != 0
	}
	return nil
}

// methodString gives the constant for a usual method, so that a metric that
// keeps it holds nothing else.
func methodString(m string) string {
	for _, known := range [...]string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"} {
		if m == known {
			return known
		}
	}
	return m
}

// target judges method, scheme and path.
func (b *block) target(req *exchange.Request, extended bool) error {
	switch {
	case b.pseudo&hasStatus != 0:
		return malformed("pseudo-header field of a response")
	case b.pseudo&hasMethod == 0:
		return malformed("request without :method")
	case b.method == "" || len(b.method) > 32 || !all(b.method, isToken):
		return malformed("method that is not a token of at most 32 characters")
	case b.pseudo&hasProtocol != 0:
		// RFC 8441 section 4.
		if !extended {
			return malformed(":protocol, which was not offered")
		}
		if b.method != "CONNECT" || b.protocol == "" || !all(b.protocol, isToken) {
			return malformed(":protocol that is not a token, or without CONNECT")
		}
		req.Upgrade = b.protocol
	case b.method == "CONNECT":
		// RFC 9113 section 8.5.
		if b.pseudo&(hasScheme|hasPath) != 0 {
			return malformed("CONNECT with :scheme or :path")
		}
		host, port, ok := exchange.SplitAuthority(b.authority)
		if !ok || host == "" || port == "" {
			return malformed("CONNECT target that is not host:port")
		}
		req.Form, req.Target = exchange.AuthorityForm, b.authority
		return nil
	}
	switch {
	case b.scheme != "http" && b.scheme != "https":
		return malformed(":scheme that is neither http nor https")
	case b.path == "":
		return malformed("request without :path")
	case !all(b.path, isTarget):
		return malformed("character in :path that no path may hold")
	case b.path[0] == '/':
		req.Form = exchange.OriginForm
	case b.path == "*" && b.method == "OPTIONS":
		req.Form, req.Path = exchange.AsteriskForm, "*"
	default:
		return malformed(":path that is not a path")
	}
	return nil
}

// requestAuthority finds the one authority of a request. Two that differ are
// refused: another parser may take the other one.
func (b *block) requestAuthority(req *exchange.Request) error {
	switch {
	case b.hosts > 1:
		return malformed("more than one Host")
	case b.hosts == 1 && b.pseudo&hasAuthority == 0:
		req.Authority = b.host
	case b.hosts == 1 && !exchange.EqualFold(b.host, b.authority):
		return malformed("Host that differs from :authority")
	}
	host, _, ok := exchange.SplitAuthority(req.Authority)
	if !ok || host == "" {
		return malformed("authority that is not host or host:port")
	}
	return nil
}

// joinCookies makes one field of the crumbs of a cookie (RFC 9113 section
// 8.2.3).
func joinCookies(h *exchange.Header) {
	var joined strings.Builder
	first, never := true, false
	for i := range h.Len() {
		if f := h.At(i); f.ID == exchange.Cookie {
			if !first {
				joined.WriteString("; ")
			}
			joined.WriteString(f.Value)
			first, never = false, never || f.NeverIndexed
		}
	}
	first = true
	h.DeleteFunc(func(f *exchange.Field) bool {
		if f.ID != exchange.Cookie {
			return false
		}
		if first {
			first = false
			f.Value, f.NeverIndexed = joined.String(), never
			return false
		}
		return true
	})
}
