package filter

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// requestBody has the request's body judged. What a filter blocks must not have
// left in part: it is held until all of it was judged, and refused where it is
// longer than the bound. What is only redacted passes as it comes.
func (s *Stage) requestBody(x *exchange.Exchange) *exchange.Refusal {
	req, d := &x.Request, &s.request
	k := kindOf(&req.Header)
	// A request is no stream of events, whatever it says.
	k.events = false
	if !d.binds || x.Subject.Observe {
		req.Body = s.watch(x, d, &k, req.Body, &req.Trailer)
		return nil
	}
	r := s.run(x, d)
	r.st.runs = append(r.st.runs, r)
	r.place = "body"
	if k.unreadable != "" {
		return r.unreadable(k.unreadable)
	}
	src := req.Body
	b := s.newBody(r, &k, src, &req.Trailer)
	switch {
	case k.messages || !d.blocks && (req.Length == exchange.UnknownLength || req.Length > Bound || req.ExpectContinue):
		// Messages of gRPC are answered while others are still to come.
		s.pass(req, nil, b)
		return nil
	case req.Length > Bound:
		return r.unreadable(fmt.Sprintf("it is larger than the %d bytes that are held until they are judged", Bound))
	case req.ExpectContinue:
		// Its client sends it when the upstream says so.
		b.first = func() error { return r.tooLong(b.hold(0)) }
		if d.redacts() {
			s.pass(req, nil, b)
		} else {
			req.Body = b
		}
		return nil
	}
	err := b.hold(0)
	if errors.Is(err, errHeld) && !d.blocks {
		b.raw = nil
		s.pass(req, nil, b)
		return nil
	}
	if err = r.tooLong(err); err != nil {
		// A client of JSON-RPC is answered by the ids in it.
		req.Body = newReplay(b.raw, src, b.ended)
		return s.cutBody(x, err)
	}
	if !b.judge.changed() {
		req.Body = newReplay(b.raw, src, true)
		return nil
	}
	s.replace(&req.Header, &req.Length, b)
	req.Body = newReplay(b.out, src, true)
	return nil
}

// redacts reports whether a rule of the side redacts.
func (d *side) redacts() bool {
	for i := range d.rules {
		if d.rules[i].action == config.FilterRedact {
			return true
		}
	}
	return false
}

// tooLong gives the refusal of a body that was to be held whole.
func (r *run) tooLong(err error) error {
	if errors.Is(err, errHeld) {
		return r.unreadable(fmt.Sprintf("it is larger than the %d bytes that are held until they are judged", Bound))
	}
	return err
}

// cutBody gives the refusal for an error of a body that was read here: one of
// its sender's is found again by whoever reads what is left.
func (s *Stage) cutBody(x *exchange.Exchange, err error) *exchange.Refusal {
	var refusal *exchange.Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	x.Request.Body = &failed{Body: x.Request.Body, err: err}
	return nil
}

// failed is a body whose sender has failed: whoever reads it is told.
type failed struct {
	exchange.Body
	err error
}

// Read implements exchange.Body.
func (b *failed) Read([]byte) (int, error) { return 0, b.err }

// Buffered implements exchange.Body.
func (b *failed) Buffered() ([]byte, bool) { return nil, false }

// Rewind implements exchange.Body.
func (b *failed) Rewind() bool { return false }

// replace prepares the head of a message for a body of which something was
// replaced and that is here whole. Where no length was declared none is, so that
// a trailer keeps its place.
func (s *Stage) replace(h *exchange.Header, length *int64, b *body) {
	amend(h, b.dec != nil)
	if *length == exchange.UnknownLength {
		return
	}
	*length = int64(len(b.out))
	if f := h.Find(exchange.ContentLength); f != nil {
		*f = exchange.Field{Name: f.Name, Value: strconv.Itoa(len(b.out)), ID: f.ID}
	}
}

// pass prepares the head of a message for a body that is judged as it comes. It
// goes on decoded: what is compressed again could not be passed on before its
// compressor is done with it.
func (s *Stage) pass(req *exchange.Request, resp *exchange.Response, b *body) {
	h, length, d := (*exchange.Header)(nil), (*int64)(nil), b.r.side
	if req != nil {
		h, length, req.Body = &req.Header, &req.Length, b
	} else {
		h, length, resp.Body = &resp.Header, &resp.Length, b
	}
	if b.dec == nil && !d.redacts() {
		return
	}
	if _, framed := b.judge.(*messages); b.dec == nil && b.r.sized && !framed {
		amend(h, false)
		return
	}
	amend(h, b.dec != nil)
	*length = exchange.UnknownLength
	h.DeleteFunc(func(f *exchange.Field) bool { return f.ID == exchange.ContentLength })
}

// holdTime bounds how long a response of unknown length is held: it may be a
// stream.
const holdTime = 3 * time.Second

// responseBody has the response's body judged: a short one before anything of it
// is sent on, a long one or a stream as it comes.
func (s *Stage) responseBody(x *exchange.Exchange) *exchange.Refusal {
	resp, d := &x.Response, &s.response
	k := kindOf(&resp.Header)
	if !d.binds || x.Subject.Observe {
		resp.Body = s.watch(x, d, &k, resp.Body, &resp.Trailer)
		return nil
	}
	r := s.run(x, d)
	r.st.runs = append(r.st.runs, r)
	r.place = "body"
	if k.unreadable != "" {
		return r.unreadable(k.unreadable)
	}
	b := s.newBody(r, &k, resp.Body, &resp.Trailer)
	// A part of a whole must stay as long as it says.
	r.sized = r.sized || resp.Status == http.StatusPartialContent
	if k.stream || resp.Length > Bound || resp.Length == exchange.UnknownLength && !d.blocks {
		s.pass(nil, resp, b)
		return nil
	}
	limit := time.Duration(0)
	if resp.Length == exchange.UnknownLength {
		limit = holdTime
	}
	switch err := b.hold(limit); {
	case errors.Is(err, errHeld):
		b.raw = nil
		s.pass(nil, resp, b)
		return nil
	case err != nil:
		var refusal *exchange.Refusal
		if errors.As(err, &refusal) {
			return refusal
		}
		resp.Body = &failed{Body: resp.Body, err: err}
		return nil
	}
	if !b.judge.changed() {
		resp.Body = newReplay(b.raw, b.src, true)
		return nil
	}
	s.replace(&resp.Header, &resp.Length, b)
	resp.Body = newReplay(b.out, b.src, true)
	return nil
}
