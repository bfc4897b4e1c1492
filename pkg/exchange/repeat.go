package exchange

import "errors"

// repeatKey is where an exchange keeps what Repeat was given.
type repeatKey struct{}

// Repeat asks that the request, which the stage has answered, be sent to the
// upstream all the same, apart from this exchange. prepare is given the exchange
// that does it, with the same request and subject, before it is sent; it is not
// called where there is no room for that.
func (x *Exchange) Repeat(prepare func(*Exchange)) { x.Keep(repeatKey{}, prepare) }

// Repeated gives what Repeat was given, nil where nothing was asked.
func (x *Exchange) Repeated() func(*Exchange) {
	prepare, _ := x.Kept(repeatKey{}).(func(*Exchange))
	return prepare
}

// A ResumeStage has a response side that needs what its request side keeps.
type ResumeStage interface {
	Stage
	// Resume is called in the place of the request side for an exchange that
	// repeats another one, whose request has passed it.
	Resume(x *Exchange)
}

// Resume makes an exchange that repeats another one pass the response sides of
// all stages, although it has not passed their request sides.
func (p *Pipeline) Resume(x *Exchange) {
	if p == nil {
		return
	}
	x.reached = len(p.stages)
	for i := range p.stages {
		if s, ok := p.stages[i].stage.(ResumeStage); ok {
			s.Resume(x)
		}
	}
}

// ErrUnwanted ends the body of a response to a repeated request of which no
// stage wants the rest.
var ErrUnwanted = errors.New("nobody wants the rest of the body")

// CopyFrom makes r the same request as other without its body, which must be
// empty. Nothing is shared but strings.
func (r *Request) CopyFrom(other *Request) {
	header, trailer := r.Header, r.Trailer
	header.Reset()
	trailer.Reset()
	*r = *other
	header.fields = append(header.fields, other.Header.fields...)
	r.Header, r.Trailer, r.Body = header, trailer, nil
}
