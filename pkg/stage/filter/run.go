package filter

import (
	"errors"
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/scan"
)

// A run looks through the texts of one message, one after another.
type run struct {
	s       *Stage
	side    *side
	x       *exchange.Exchange
	st      *state
	observe bool
	// place says where the text stands: "body", "header field ", then the name of
	// which; at says that the offset in it is worth telling.
	place, which string
	at           bool
	// credential: the text is one that its sender means to send.
	credential bool
	// sized replaces a match by as many bytes, encoded writes marks as URLs do.
	sized, encoded bool
	// fixed is how much of the beginning of the text cannot be rewritten.
	fixed int64
	// changed says that something of the text was replaced, hit that something
	// was found.
	changed, hit bool

	scanners [2]*scan.Scanner // enforcing, observing
	views    [2]scan.View
	in, out  []byte
	// Those of the body that the run judges.
	step, raw, passed []byte
}

// run lends what looks through a message.
func (s *Stage) run(x *exchange.Exchange, d *side) *run {
	r, ok := d.pool.Get().(*run)
	if !ok {
		r = &run{side: d}
	}
	r.s, r.x, r.st, r.observe = s, x, s.state(x), x.Subject.Observe
	return r
}

// maxKept bounds the memory that a run keeps for the next message.
const maxKept = 64 << 10

// free takes a run back.
func (s *Stage) free(r *run) {
	for i, scanner := range r.scanners {
		if scanner != nil && scanner.Size() > maxKept {
			r.scanners[i] = nil
		}
	}
	if cap(r.in)+cap(r.out)+cap(r.raw)+cap(r.passed) > maxKept {
		r.in, r.out, r.raw, r.passed = nil, nil, nil, nil
	}
	*r = run{
		side: r.side, scanners: r.scanners, views: r.views, in: r.in[:0], out: r.out[:0],
		step: r.step, raw: r.raw[:0], passed: r.passed[:0],
	}
	r.side.pool.Put(r)
}

// memory gives the bytes that the run holds for texts.
func (r *run) memory() int {
	n := cap(r.in) + cap(r.out)
	for _, scanner := range r.scanners {
		if scanner != nil {
			n += scanner.Size()
		}
	}
	return n
}

// begin makes the scanner ready for a text with that view.
func (r *run) begin(view scan.View, place string, at bool) *scan.Scanner {
	r.place, r.at, r.changed, r.hit = place, at, false, false
	i := 0
	if r.observe {
		i = 1
	}
	if r.scanners[i] == nil {
		searches := r.side.enforced
		if r.observe {
			searches = r.side.observed
		}
		r.scanners[i] = scan.NewScanner(searches, r.look, Bound, r.found)
	}
	r.views[i] = view
	r.scanners[i].Reset()
	return r.scanners[i]
}

// look is the View of the scanner: that of the text.
func (r *run) look(units []scan.Unit, p []byte, last bool) ([]scan.Unit, int) {
	i := 0
	if r.observe {
		i = 1
	}
	if view := r.views[i]; view != nil {
		return view(units, p, last)
	}
	return units, len(p)
}

// whole judges a text that is here whole: it gives what is to stand in its
// place, which is p itself where nothing is.
func (r *run) whole(p []byte, view scan.View, place string) ([]byte, error) {
	out, err := r.begin(view, place, false).Feed(r.out[:0], p, true)
	r.out = out
	if err != nil {
		return nil, r.failed(err)
	}
	if !r.changed {
		return p, nil
	}
	return out, nil
}

// found deals with one match.
func (r *run) found(f scan.Found) (scan.Verdict, error) {
	rule := &r.side.rules[f.Search]
	if rule.secrets && r.credential {
		return scan.Verdict{}, nil
	}
	r.hit = true
	where := r.where(f.End)
	what := "content_filter " + rule.name
	if rule.secrets {
		what = "secret " + f.Name
	}
	stop := scan.Verdict{Stop: !rule.secrets}
	switch rule.action {
	case config.FilterBlock:
		r.st.note(what + " " + where)
		if refusal := r.x.Object(r.refusal(rule, f.Name, where)); refusal != nil {
			return scan.Verdict{}, refusal
		}
		return stop, nil
	case config.FilterRedact:
		if r.observe {
			r.st.note(what + " " + where + ", would be redacted")
			return stop, nil
		}
		if f.Pos < r.fixed {
			r.st.note(what + " " + where)
			return scan.Verdict{}, r.refusal(rule, f.Name, where+", which cannot be rewritten")
		}
		r.st.note(what + " " + where + ", redacted")
		r.changed = true
		return scan.Verdict{Replace: r.marked(rule, &f)}, nil
	default:
		r.st.note(what + " " + where)
		return stop, nil
	}
}

// where says where something was found, and nothing of it.
func (r *run) where(end int64) string {
	who := "request"
	if r.side.response {
		who = "response"
	}
	if r.at {
		return fmt.Sprintf("in the %s's %s before byte %d", who, r.place, end)
	}
	return "in the " + who + "'s " + r.place + r.which[:min(len(r.which), maxName)]
}

// marked gives what stands in the place of a match.
func (r *run) marked(rule *rule, f *scan.Found) []byte {
	mark := rule.mark
	if rule.secrets {
		mark = r.s.o.Secrets.Mark(f.Name)
	}
	switch {
	case r.sized:
		sized := make([]byte, f.End-f.Pos)
		for i := copy(sized, mark); i < len(sized); i++ {
			sized[i] = '*'
		}
		return sized
	case r.encoded:
		encoded := make([]byte, 0, len(mark)+8)
		for _, c := range mark {
			if isUnreserved(c) {
				encoded = append(encoded, c)
			} else {
				encoded = fmt.Appendf(encoded, "%%%02X", c)
			}
		}
		return encoded
	default:
		return mark
	}
}

// isUnreserved reports whether c stands for itself in every part of a URL
// (RFC 3986 section 2.3).
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// refusal is that of a message in which something was found.
func (r *run) refusal(rule *rule, id, where string) *exchange.Refusal {
	switch {
	case r.side.response && rule.secrets:
		return r.x.Refuse(policy.ResponseFilter, fmt.Sprintf("a secret (%s) was found %s; to let it pass, set `secrets: redact` or `report` in the rule %q", id, where, r.x.Subject.Rule))
	case r.side.response:
		return r.x.Refuse(policy.ResponseFilter, "Response blocked by content filter")
	case rule.secrets:
		return r.x.Refuse(policy.SecretFound, fmt.Sprintf("a secret (%s) was found %s; send it in a header for credentials, or set `secrets: redact` or `report` in the rule %q", id, where, r.x.Subject.Rule))
	default:
		refusal := r.x.Refuse(policy.ContentFilter, "Request blocked by content filter")
		refusal.Status = rule.status
		return refusal
	}
}

// unreadable is the refusal of a message that cannot be judged.
func (r *run) unreadable(why string) *exchange.Refusal {
	rule := &r.side.rules[0]
	for i := range r.side.rules {
		if r.side.rules[i].action != config.FilterReport {
			rule = &r.side.rules[i]
			break
		}
	}
	r.at = false
	refusal := r.refusal(rule, "", "")
	key := "content_filter"
	if rule.secrets {
		key = "secrets"
	}
	refusal.Message = fmt.Sprintf("%s cannot be judged: %s; to allow it, let `%s` of the rule %q only report", r.where(0), why, key, r.x.Subject.Rule)
	refusal.Message = refusal.Message[len("in "):]
	r.st.note(r.where(0) + " not judged: " + why)
	return refusal
}

// failed gives the refusal for an error of a scan.
func (r *run) failed(err error) error {
	if errors.Is(err, scan.ErrBound) {
		return r.unreadable(fmt.Sprintf("it has more than %d bytes that may become one match, or too many that nearly did", Bound))
	}
	return err
}
