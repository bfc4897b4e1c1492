package http2

import (
	"golang.org/x/net/http2/hpack"

	"sallyport/pkg/exchange"
)

// Pseudo-header fields that were seen.
const (
	hasMethod = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasProtocol
	hasStatus
)

// A block is one header list as it comes off the wire, judged field by field.
// What breaks a rule does not stop the decoding: the tables of HPACK must stay
// those of the peer.
type block struct {
	fields                                    []exchange.Field
	method, scheme, authority, path, protocol string
	status                                    int
	pseudo                                    uint8
	// length is what content-length says, -1 without one.
	length  int64
	host    string
	hosts   int
	cookies int

	wantsTrailers bool
	expect        bool
	size          int  // as RFC 9113 section 6.5.2 counts it
	over          bool // the list is over its bounds
	// bad is the first rule that the list breaks, nil for none.
	bad error
}

func (c *Codec) getBlock() *block {
	b, ok := c.blocks.Get().(*block)
	if !ok {
		b = new(block)
	}
	b.length = -1
	return b
}

func (c *Codec) putBlock(b *block) {
	fields := b.fields
	clear(fields)
	if cap(fields) > maxTrailerFields {
		fields = nil
	}
	*b = block{fields: fields[:0]}
	c.blocks.Put(b)
}

// fault keeps the first thing that is wrong.
func (b *block) fault(text string) {
	if b.bad == nil {
		b.bad = malformed(text)
	}
}

// add takes the next field. It answers false once the list is over its bounds:
// then nothing more needs to be decoded into memory. known, unless nil, holds
// fields that were found good before.
func (b *block) add(f hpack.HeaderField, known *[knownFields]exchange.Field) bool {
	b.size += len(f.Name) + len(f.Value) + 32
	if b.size > maxList || len(b.fields) == maxFields {
		b.over = true
		return false
	}
	if f.Name == "" {
		b.fault("empty field name")
		return true
	}
	if f.Name[0] == ':' {
		b.addPseudo(f.Name, f.Value)
		return true
	}
	if known != nil {
		if k := &known[tag(f.Name, f.Value)%knownFields]; k.Name == f.Name && k.Value == f.Value && k.NeverIndexed == f.Sensitive {
			b.fields = append(b.fields, *k)
			return true
		}
	}
	switch {
	case !all(f.Name, isName):
		b.fault("character in a field name that no name may hold")
		return true
	case !isFieldValue(f.Value):
		b.fault("character in a field value that no value may hold there")
		return true
	}
	id := exchange.LookupName(f.Name)
	if id != exchange.OtherName && !b.known(id, f.Value) {
		return true
	}
	field := exchange.Field{Name: f.Name, Value: f.Value, ID: id, Checked: true, NeverIndexed: f.Sensitive}
	b.fields = append(b.fields, field)
	if known != nil && len(f.Name)+len(f.Value) <= maxKnown && !meansMore(id) {
		known[tag(f.Name, f.Value)%knownFields] = field
	}
	return true
}

// knownFields are the fields that a connection remembers to have judged:
// those of one request are mostly those of the one before, and comparing
// the same strings costs nothing. maxKnown bounds name and value of one, in
// bytes: an idle connection keeps them.
const (
	knownFields = 32
	maxKnown    = 192
)

// meansMore reports whether such a field says something about its message, so
// that it must be looked at each time.
func meansMore(id exchange.NameID) bool {
	switch id {
	case exchange.ContentLength, exchange.Host, exchange.Cookie, exchange.Expect:
		return true
	default:
		return false
	}
}

// known takes note of a field that means something for the stream and reports
// whether it stays in the list.
func (b *block) known(id exchange.NameID, value string) bool {
	switch id {
	case exchange.Connection, exchange.KeepAlive, exchange.ProxyConnection, exchange.TransferEncoding, exchange.Upgrade:
		// RFC 9113 section 8.2.2.
		b.fault("field that concerns a connection of HTTP/1")
		return false
	case exchange.TE:
		if !exchange.EqualFold(value, "trailers") {
			b.fault("TE other than trailers")
		}
		b.wantsTrailers = true
		return false
	case exchange.ContentLength:
		n, ok := exchange.ParseLength(value)
		switch {
		case !ok:
			b.fault("Content-Length that is not a plain decimal number")
		case b.length >= 0:
			b.fault("repeated Content-Length")
		default:
			b.length = n
		}
	case exchange.Host:
		b.hosts++
		b.host = value
	case exchange.Cookie:
		b.cookies++
	case exchange.Expect:
		b.expect = exchange.EqualFold(value, "100-continue")
	default:
		if id.HopByHop() {
			return false
		}
	}
	return true
}

// addPseudo takes a pseudo-header field (RFC 9113 section 8.3).
func (b *block) addPseudo(name, value string) {
	if len(b.fields) > 0 {
		b.fault("pseudo-header field behind a regular field")
		return
	}
	var bit uint8
	var into *string
	switch name {
	case ":method":
		bit, into = hasMethod, &b.method
	case ":scheme":
		bit, into = hasScheme, &b.scheme
	case ":authority":
		bit, into = hasAuthority, &b.authority
	case ":path":
		bit, into = hasPath, &b.path
	case ":protocol":
		bit, into = hasProtocol, &b.protocol
	case ":status":
		bit = hasStatus
		n, ok := exchange.ParseLength(value)
		if !ok || len(value) != 3 || n < 100 {
			b.fault("status that is not a number from 100 to 999")
			return
		}
		b.status = int(n)
	default:
		b.fault("unknown pseudo-header field")
		return
	}
	if b.pseudo&bit != 0 {
		b.fault("repeated pseudo-header field")
		return
	}
	b.pseudo |= bit
	if into != nil {
		*into = value
	}
}

// trailerFault judges the block as a trailer section.
func (b *block) trailerFault() string {
	switch {
	case b.over || len(b.fields) > maxTrailerFields:
		return "trailer section over its bounds"
	case b.bad != nil:
		return b.bad.Error()
	case b.pseudo != 0:
		return "pseudo-header field in a trailer section"
	default:
		return ""
	}
}

// trailer fills h with what of a trailer section is passed on.
func (b *block) trailer(h *exchange.Header, request bool) {
	h.Reset()
	for _, f := range b.fields {
		if f.ID != exchange.AltSvc && !f.ID.BannedFromTrailer(request) {
			h.Append(f)
		}
	}
}
