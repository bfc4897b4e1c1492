package http1

import (
	"bytes"

	"sallyport/pkg/exchange"
)

// parseRequest fills req from a whole header section (RFC 9112 sections 3 and
// 5). The kind and length of the body are in the result.
func parseRequest(head []byte, req *exchange.Request) (kind bodyKind, length int64, err error) {
	eol := bytes.IndexByte(head, '\n')
	if err := parseRequestLine(head[:eol-1], req); err != nil {
		return 0, 0, err
	}
	if err := parseFields(head[eol+1:], &req.Header, maxFields); err != nil {
		return 0, 0, err
	}
	var f framing
	if err := readFraming(&req.Header, req.Version, &f); err != nil {
		return 0, 0, err
	}
	if err := requestHost(req, &f); err != nil {
		return 0, 0, err
	}
	if err := requestConnection(req, &f); err != nil {
		return 0, 0, err
	}
	switch {
	case req.Method == "CONNECT" && (f.chunked || f.length > 0):
		// Content in CONNECT has no meaning (RFC 9110 section 9.3.6), and what
		// follows the head is read as the tunnel by everyone who ignores it.
		return 0, 0, malformed("CONNECT with content")
	case f.chunked:
		req.Length = exchange.UnknownLength
		return chunkedBody, exchange.UnknownLength, nil
	default:
		req.Length = max(f.length, 0)
		return fixedBody, req.Length, nil
	}
}

func parseRequestLine(line []byte, req *exchange.Request) error {
	space := bytes.IndexByte(line, ' ')
	if space <= 0 {
		return malformed("request line without a method and a target")
	}
	method, rest := line[:space], line[space+1:]
	if len(method) > 32 || !isTokenString(freeze(method)) {
		return malformed("method that is not a token of at most 32 characters")
	}
	space = bytes.IndexByte(rest, ' ')
	if space < 0 {
		return malformed("request line without a version")
	}
	target, version := rest[:space], rest[space+1:]
	switch string(version) {
	case "HTTP/1.1":
		req.Version = exchange.HTTP11
	case "HTTP/1.0":
		req.Version = exchange.HTTP10
	default:
		return malformed("version that is neither HTTP/1.1 nor HTTP/1.0")
	}
	req.Method = methodString(method)
	req.Target = freeze(target)
	return parseTarget(req)
}

// methodString gives the constant for a usual method, so that a metric that
// keeps it does not hold an arena.
func methodString(m []byte) string {
	switch string(m) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "HEAD":
		return "HEAD"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "PATCH":
		return "PATCH"
	case "CONNECT":
		return "CONNECT"
	case "TRACE":
		return "TRACE"
	default:
		return freeze(m)
	}
}

// parseTarget reads the four forms of RFC 9112 section 3.2.
func parseTarget(req *exchange.Request) error {
	target := req.Target
	switch {
	case target == "":
		return malformed("empty request target")
	case !all(target, isTarget):
		return malformed("character in the request target that no target may hold")
	case req.Method == "CONNECT":
		host, port, ok := exchange.SplitAuthority(target)
		if !ok || host == "" || port == "" {
			return malformed("CONNECT target that is not host:port")
		}
		req.Form, req.Authority = exchange.AuthorityForm, target
		return nil
	case target[0] == '/':
		req.Form = exchange.OriginForm
		req.Path, req.Query, req.HasQuery = cut(target, '?')
		return nil
	case target == "*":
		if req.Method != "OPTIONS" {
			return malformed("asterisk target with a method other than OPTIONS")
		}
		req.Form, req.Path = exchange.AsteriskForm, "*"
		return nil
	default:
		return parseAbsolute(req)
	}
}

func parseAbsolute(req *exchange.Request) error {
	var rest string
	switch target := req.Target; {
	case len(target) > 7 && exchange.EqualFold(target[:7], "http://"):
		req.Scheme, rest = "http", target[7:]
	case len(target) > 8 && exchange.EqualFold(target[:8], "https://"):
		req.Scheme, rest = "https", target[8:]
	default:
		return malformed("request target that is neither a path nor an http or https URI")
	}
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	host, _, ok := exchange.SplitAuthority(rest[:end])
	if !ok || host == "" {
		return malformed("authority of the request target that is not host or host:port")
	}
	req.Form, req.Authority = exchange.AbsoluteForm, rest[:end]
	req.Path, req.Query, req.HasQuery = cut(rest[end:], '?')
	if req.Path == "" {
		req.Path = "/"
		if req.Method == "OPTIONS" && !req.HasQuery {
			// RFC 9112 section 3.2.4.
			req.Path = "*"
		}
	}
	return nil
}

// requestHost finds the one authority of a request (RFC 9112 section 3.2).
func requestHost(req *exchange.Request, f *framing) error {
	switch {
	case f.hosts > 1:
		return malformed("more than one Host")
	case f.hosts == 0 && req.Version == exchange.HTTP11:
		return malformed("HTTP/1.1 without Host")
	case f.hosts == 0:
		return nil
	}
	host, _, ok := exchange.SplitAuthority(f.host)
	if !ok || host == "" && f.host != "" {
		return malformed("Host that is not host or host:port")
	}
	if req.Form == exchange.AbsoluteForm || req.Form == exchange.AuthorityForm {
		// The target overrides Host (RFC 9112 section 3.2.2), which is written
		// anew from Authority.
		return nil
	}
	if f.host == "" {
		return malformed("empty Host")
	}
	req.Authority = f.host
	return nil
}

// requestConnection reads and removes what concerns the client's connection
// only.
func requestConnection(req *exchange.Request, f *framing) error {
	c := &f.connection
	req.Close = !c.persists(req.Version)
	// A request with content could be answered 101 while its body is still on
	// the way: no protocol needs that, and the offer is dropped.
	if f.upgrade != "" && c.upgrade && req.Version == exchange.HTTP11 && !f.chunked && f.length <= 0 {
		var err error
		if req.Upgrade, err = offered(f.upgrade); err != nil {
			return err
		}
	}
	for i := range req.Header.Len() {
		switch field := req.Header.At(i); field.ID {
		case exchange.TE:
			if c.te && listHas(field.Value, "trailers") {
				req.WantsTrailers = true
			}
		case exchange.Expect:
			if exchange.EqualFold(field.Value, "100-continue") {
				req.ExpectContinue = f.chunked || f.length > 0
			}
		}
	}
	extra := exchange.OtherName
	if req.Version == exchange.HTTP10 {
		// RFC 9110 section 10.1.1: the expectation of a 1.0 client is void, and
		// it cannot read the interim response.
		req.ExpectContinue = false
		extra = exchange.Expect
	}
	dropHopByHop(&req.Header, c, extra)
	return nil
}

func listHas(list, want string) bool {
	for rest, found := list, true; found; {
		var element string
		element, rest, found = cut(rest, ',')
		element, _, _ = cut(element, ';')
		if exchange.EqualFold(trim(element), want) {
			return true
		}
	}
	return false
}
