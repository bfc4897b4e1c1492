// Package headers sets, adds and removes fields of requests and responses, as a
// rule says and not otherwise: without one nothing is added, no X-Forwarded-For
// either. Trailers pass as they are.
package headers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A Stage changes the fields of one rule's messages.
type Stage struct {
	request, response changes
}

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.ResponseStage = (*Stage)(nil)
	_ exchange.InterimStage  = (*Stage)(nil)
)

// changes are made in this order: remove, set, add.
type changes struct {
	remove   []name
	set, add []field
}

// A name is that of a field.
type name struct {
	text string
	id   exchange.NameID
}

// A field is what is written; parts is nil where the value is always the same.
type field struct {
	name
	value string
	parts []part
}

// New makes the stage of a rule. All mistakes are reported.
func New(c *config.Headers) (*Stage, error) {
	s := &Stage{}
	var errs []error
	s.request, errs = compile("headers.request", &c.Request, errs)
	s.response, errs = compile("headers.response", &c.Response, errs)
	return s, errors.Join(errs...)
}

func compile(at string, c *config.HeaderChanges, errs []error) (changes, []error) {
	named := func(text string) name {
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !tchar(r) }) {
			errs = append(errs, fmt.Errorf("%s: %q is not the name of a field", at, text))
		} else if config.OwnField(text) {
			errs = append(errs, fmt.Errorf("%s: %s frames or routes the message: sallyport alone writes it", at, text))
		}
		return name{text, exchange.LookupName(text)}
	}
	fields := func(list []config.HeaderField) []field {
		var all []field
		for _, f := range list {
			out := field{name: named(f.Name)}
			if out.parts = split(f.Value); len(out.parts) == 1 && out.parts[0].of == text {
				out.value, out.parts = out.parts[0].text, nil
			}
			if !valid(f.Value) {
				errs = append(errs, fmt.Errorf("%s: the value of %s holds a control character, or begins or ends with white space", at, f.Name))
			}
			all = append(all, out)
		}
		return all
	}
	var out changes
	for _, n := range c.Remove {
		out.remove = append(out.remove, named(n))
	}
	out.set, out.add = fields(c.Set), fields(c.Add)
	return out, errs
}

// tchar is a character of a token (RFC 9110 section 5.6.2).
func tchar(r rune) bool {
	return r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z' || r < 0x80 && strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return "headers" }

// Request implements exchange.RequestStage. A value that no field can have, as
// of a workload whose name holds a control character, is refused here for both
// sides: later it would break the exchange.
func (s *Stage) Request(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	if x.Subject.Observe {
		return nil
	}
	if bad := s.response.unwritable(x); bad != "" {
		return refuse(x, bad)
	}
	if bad := s.request.apply(&x.Request.Header, x); bad != "" {
		return refuse(x, bad)
	}
	return nil
}

func refuse(x *exchange.Exchange, field string) *exchange.Refusal {
	return x.Refuse(policy.MalformedRequest, "rule "+x.Subject.Rule+" writes "+field+
		" with a value that no field can have for this request: take the variable out of it")
}

// Response implements exchange.ResponseStage.
func (s *Stage) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	if !x.Subject.Observe {
		s.response.apply(&x.Response.Header, x)
	}
	return nil
}

// Interim implements exchange.InterimStage: what is taken off a response, or is
// written by the rule alone, does not come before it either.
func (s *Stage) Interim(x *exchange.Exchange, resp *exchange.Response) bool {
	if x.Subject.Observe {
		return true
	}
	h := &resp.Header
	for i := range s.response.remove {
		h.DeleteFunc(s.response.remove[i].is)
	}
	for i := range s.response.set {
		h.DeleteFunc(s.response.set[i].is)
	}
	return true
}

// unwritable gives the name of a field whose value would be none, "" for none.
func (c *changes) unwritable(x *exchange.Exchange) string {
	for _, list := range [...][]field{c.set, c.add} {
		for i := range list {
			if list[i].parts != nil && !valid(value(list[i].parts, x)) {
				return list[i].text
			}
		}
	}
	return ""
}

// fewValues are kept without memory of their own.
const fewValues = 8

// apply makes the changes. Where a value is none it makes none and gives the
// field's name. Values are those before any change: what is removed can be part
// of what is set.
func (c *changes) apply(h *exchange.Header, x *exchange.Exchange) string {
	var room [fewValues]string
	values := room[:0]
	for _, list := range [...][]field{c.set, c.add} {
		for i := range list {
			v := list[i].value
			if list[i].parts != nil {
				if v = value(list[i].parts, x); !valid(v) {
					return list[i].text
				}
			}
			values = append(values, v)
		}
	}
	for i := range c.remove {
		n := &c.remove[i]
		if find(h, n, 0) >= 0 {
			h.DeleteFunc(n.is)
		}
	}
	for i := range c.set {
		set(h, &c.set[i].name, values[i])
	}
	for i := range c.add {
		n := &c.add[i].name
		h.Append(exchange.Field{Name: n.text, ID: n.id, Value: values[len(c.set)+i], Checked: true})
	}
	return ""
}

func (n *name) is(f *exchange.Field) bool { return f.ID == n.id && exchange.EqualFold(f.Name, n.text) }

// find gives the place of the first field of that name from a place on, -1 for
// none.
func find(h *exchange.Header, n *name, from int) int {
	for i := from; i < h.Len(); i++ {
		if n.is(h.At(i)) {
			return i
		}
	}
	return -1
}

// set writes one field of that name, in the place of the first.
func set(h *exchange.Header, n *name, v string) {
	f := exchange.Field{Name: n.text, ID: n.id, Value: v, Checked: true}
	at := find(h, n, 0)
	if at < 0 {
		h.Append(f)
		return
	}
	if find(h, n, at+1) >= 0 {
		first := true
		h.DeleteFunc(func(f *exchange.Field) bool {
			if !n.is(f) {
				return false
			}
			again := !first
			first = false
			return again
		})
	}
	*h.At(at) = f
}
