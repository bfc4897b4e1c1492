package http1

import (
	"bytes"

	"sallyport/pkg/exchange"
)

// parseResponse fills resp from a whole header section (RFC 9112 sections 4,
// 5 and 6.3). persists says whether the upstream keeps the connection.
func parseResponse(head []byte, req *exchange.Request, resp *exchange.Response) (kind bodyKind, persists bool, err error) {
	eol := bytes.IndexByte(head, '\n')
	if err := parseStatusLine(head[:eol-1], resp); err != nil {
		return 0, false, err
	}
	if err := parseFields(head[eol+1:], &resp.Header, maxFields); err != nil {
		return 0, false, err
	}
	var f framing
	if err := readFraming(&resp.Header, resp.Version, &f); err != nil {
		return 0, false, err
	}
	c := &f.connection
	persists = c.persists(resp.Version)
	resp.Close = !persists
	if resp.Status == 101 {
		// What follows is not HTTP: the connection never carries a request
		// again.
		persists = false
		if err := switched(req, resp, &f); err != nil {
			return 0, false, err
		}
	}
	if resp.Status == 426 && c.upgrade {
		// RFC 9110 section 15.5.22: the answer tells which protocol would do.
		if resp.Upgrade, err = offered(f.upgrade); err != nil {
			return 0, false, err
		}
	}
	dropHopByHop(&resp.Header, c, exchange.AltSvc)
	switch {
	case resp.Status < 200 || resp.Status == 204:
		// RFC 9112 section 6.3 rule 1: no content, whatever the fields say.
		// They are not forwarded, because a client may believe them.
		dropFraming(&resp.Header)
		resp.Length = exchange.NoBody
	case req.Method == "HEAD" || resp.Status == 304:
		resp.Length = max(f.length, 0)
		if f.chunked {
			resp.Length = exchange.UnknownLength
		}
	case f.chunked:
		resp.Length = exchange.UnknownLength
		return chunkedBody, persists, nil
	case f.length >= 0:
		resp.Length = f.length
	default:
		resp.Length = exchange.UnknownLength
		resp.Close = true
		return untilCloseBody, false, nil
	}
	return fixedBody, persists, nil
}

func parseStatusLine(line []byte, resp *exchange.Response) error {
	const shortest = len("HTTP/1.1 200")
	if len(line) < shortest {
		return malformed("status line too short")
	}
	switch string(line[:9]) {
	case "HTTP/1.1 ":
		resp.Version = exchange.HTTP11
	case "HTTP/1.0 ":
		resp.Version = exchange.HTTP10
	default:
		return malformed("status line without HTTP/1.1 or HTTP/1.0")
	}
	status, ok := exchange.ParseLength(freeze(line[9:shortest]))
	if !ok || status < 100 {
		return malformed("status that is not a number from 100 to 999")
	}
	resp.Status = int(status)
	phrase := line[shortest:]
	if len(phrase) == 0 {
		return nil
	}
	if phrase[0] != ' ' {
		return malformed("status of more than three digits")
	}
	resp.Phrase = freeze(phrase[1:])
	if !all(resp.Phrase, isValue) {
		return malformed("control character in the reason phrase")
	}
	return nil
}

// switched judges a 101: a switch that the client did not ask for, or that
// carries HTTP out of sight, is not one.
func switched(req *exchange.Request, resp *exchange.Response, f *framing) error {
	if f.upgrade == "" || !f.connection.upgrade {
		return malformed("101 without Upgrade")
	}
	if req.Upgrade == "" {
		return malformed("101 to a request that did not offer it")
	}
	for rest, found := f.upgrade, true; found; {
		var protocol string
		protocol, rest, found = cut(rest, ',')
		if !offers(req.Upgrade, trim(protocol)) {
			return malformed("101 to a protocol that was not offered")
		}
	}
	resp.Upgrade = f.upgrade
	return nil
}

func offers(list, protocol string) bool {
	for rest, found := list, true; found; {
		var element string
		element, rest, found = cut(rest, ',')
		if exchange.EqualFold(trim(element), protocol) {
			return true
		}
	}
	return false
}

func dropFraming(h *exchange.Header) {
	for i := range h.Len() {
		if id := h.At(i).ID; id == exchange.ContentLength || id == exchange.TransferEncoding {
			h.DeleteFunc(func(f *exchange.Field) bool {
				return f.ID == exchange.ContentLength || f.ID == exchange.TransferEncoding
			})
			return
		}
	}
}
