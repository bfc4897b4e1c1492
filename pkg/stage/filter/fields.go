package filter

import (
	"errors"
	"math"
	"slices"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/decode"
	"sallyport/pkg/stage/scan"
)

// maxName bounds how much of a field's name an event tells.
const maxName = 64

// url judges path and query, as they are and decoded. Only a query is
// rewritten: another path would be another resource than the one that policy
// has judged.
func (r *run) url(req *exchange.Request) *exchange.Refusal {
	if req.Path == "" {
		return nil
	}
	text := make([]byte, 0, len(req.Path)+1+len(req.Query))
	text = append(text, req.Path...)
	r.fixed = int64(len(text)) + 1
	if req.HasQuery {
		text = append(text, '?')
		text = append(text, req.Query...)
	}
	r.encoded = true
	out, err := r.whole(text, scan.Form, "URL")
	r.encoded, r.fixed = false, 0
	if err != nil {
		return refusalOf(err)
	}
	r.st.clean = !r.hit
	if r.changed {
		req.Query = string(out[len(req.Path)+1:])
		r.x.Record.Query = req.Query
	}
	return r.line(req)
}

// line judges what else the first line of a request can carry: a method that
// somebody has made up, and the host where no field has it.
func (r *run) line(req *exchange.Request) *exchange.Refusal {
	r.fixed = math.MaxInt64
	defer func() { r.fixed = 0 }()
	switch req.Method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT":
	default:
		if _, err := r.text(req.Method, "method"); err != nil {
			return refusalOf(err)
		}
	}
	if req.Header.Find(exchange.Host) != nil {
		return nil
	}
	if _, err := r.text(req.Authority, "host"); err != nil {
		return refusalOf(err)
	}
	return nil
}

// phrase judges the reason phrase of a response, which nobody needs.
func (r *run) phrase(resp *exchange.Response) *exchange.Refusal {
	if resp.Phrase == "" {
		return nil
	}
	if _, err := r.text(resp.Phrase, "reason phrase"); err != nil {
		return refusalOf(err)
	}
	if r.changed {
		resp.Phrase = ""
	}
	return nil
}

// refusalOf gives the refusal that err is.
func refusalOf(err error) *exchange.Refusal {
	var r *exchange.Refusal
	if !errors.As(err, &r) {
		panic("filter: an error that is no refusal: " + err.Error())
	}
	return r
}

// fields judges names and values of a header or trailer section. A field whose
// name matches is not redacted but removed.
func (r *run) fields(h *exchange.Header, trailer bool) *exchange.Refusal {
	removed := false
	field, name := "header field ", "name of a header field"
	if trailer {
		field, name = "trailer field ", "name of a trailer field"
	}
	defer func() { r.which = "" }()
	for i := range h.Len() {
		f := h.At(i)
		r.credential, r.which = audit.SecretHeader(f.Name), f.Name
		p, err := r.text(f.Value, field)
		r.credential, r.which = false, ""
		if err != nil {
			return refusalOf(err)
		}
		if r.changed {
			*f = exchange.Field{Name: f.Name, Value: string(p), ID: f.ID, NeverIndexed: f.NeverIndexed}
		}
		if f.ID != exchange.OtherName {
			continue
		}
		if _, err = r.text(f.Name, name); err != nil {
			return refusalOf(err)
		}
		if r.changed {
			f.Name = ""
			removed = true
		}
	}
	if removed {
		h.DeleteFunc(func(f *exchange.Field) bool { return f.Name == "" })
	}
	return nil
}

// text is whole for a string without a view.
func (r *run) text(s, place string) ([]byte, error) {
	r.in = append(r.in[:0], s...)
	return r.whole(r.in, nil, place)
}

// understandable takes from a request what would make the response one that
// cannot be judged: codings that are not undone here, and parts of a whole.
func understandable(h *exchange.Header) {
	for i := range h.Len() {
		f := h.At(i)
		var accepted string
		switch {
		case exchange.EqualFold(f.Name, "Accept-Encoding"), exchange.EqualFold(f.Name, "grpc-accept-encoding"):
			accepted = decode.Accept(f.Value)
		default:
			continue
		}
		if accepted != f.Value {
			*f = exchange.Field{Name: f.Name, Value: accepted, ID: f.ID}
		}
	}
	h.Del("Range")
	h.Del("If-Range")
}

// digests are fields about the bytes of a body, which do not hold of what a
// filter made of it (RFC 9530, RFC 1864).
var digests = []string{"Content-MD5", "Digest", "Content-Digest", "Repr-Digest"}

// amend takes from the header of a message whose body is rewritten, or may be,
// what does not hold any more. A strong validator becomes a weak one (RFC 9110
// section 8.8.1).
func amend(h *exchange.Header, decoded bool) {
	h.DeleteFunc(func(f *exchange.Field) bool {
		return decoded && f.ID == exchange.ContentEncoding ||
			slices.ContainsFunc(digests, func(name string) bool { return exchange.EqualFold(f.Name, name) })
	})
	for i := range h.Len() {
		if f := h.At(i); exchange.EqualFold(f.Name, "ETag") && len(f.Value) > 0 && f.Value[0] == '"' {
			*f = exchange.Field{Name: f.Name, Value: "W/" + f.Value, ID: f.ID}
		}
	}
}
