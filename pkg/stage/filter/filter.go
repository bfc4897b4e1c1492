// Package filter is the stage that looks into requests and responses: for the
// patterns of `content_filter` and for what the detectors of `secrets` know, in
// one pass over URL, header fields, body and trailer.
package filter

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/scan"
	"sallyport/pkg/stage/secrets"
)

// Bound is how many bytes of one body are held back at most: of a request that
// must be judged before anything of it leaves, of a short response, of a
// message of gRPC or an event of a stream, of what may still become a match.
const Bound = 1 << 20

// Options are what the stages of all rules share.
type Options struct {
	// Memory bounds what they hold.
	Memory *Memory
	// Secrets are the detectors.
	Secrets *secrets.Set
}

// A Stage is the filters of one rule.
type Stage struct {
	o                 Options
	name              string
	request, response side
}

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.ResponseStage = (*Stage)(nil)
	_ exchange.InterimStage  = (*Stage)(nil)
	_ exchange.EndStage      = (*Stage)(nil)
	_ exchange.RecordStage   = (*Stage)(nil)
)

// A side is what is looked for in one direction.
type side struct {
	response bool
	rules    []rule
	// enforced and observed are rules as searches, one each.
	enforced, observed []scan.Search
	// binds: a rule blocks or redacts; blocks: one blocks.
	binds, blocks bool
	// secrets: one is all detectors.
	secrets bool
	pool    sync.Pool // of *run
}

// A rule is one filter, or all detectors.
type rule struct {
	name    string
	secrets bool
	action  config.FilterAction
	status  int
	mark    []byte
}

// New makes the stage of a rule; nil where nothing is to be looked for.
func New(o Options, filters []config.ContentFilter, found config.FilterAction) (*Stage, error) {
	if len(filters) == 0 && found == "" {
		return nil, nil
	}
	s := &Stage{o: o, name: "content_filter"}
	s.response.response = true
	for i := range filters {
		f := &filters[i]
		p, err := scan.Compile(f.Pattern)
		if err != nil {
			return nil, fmt.Errorf("content_filter %s: %w", f.Name, err)
		}
		r := rule{name: f.Name, action: f.Action, status: f.Status, mark: []byte("[redacted:" + f.Name + "]")}
		hold := f.Action != config.FilterReport
		search := scan.Search{Pattern: p, View: scan.RawAndView, Hold: hold, Eager: f.Action != config.FilterRedact}
		if f.In != config.InResponse {
			s.request.add(r, search)
		}
		if f.In != config.InRequest {
			s.response.add(r, search)
		}
	}
	if found != "" {
		if len(filters) == 0 {
			s.name = "secrets"
		}
		r := rule{name: "secrets", secrets: true, action: found}
		search := o.Secrets.Search(found != config.FilterReport)
		s.request.add(r, search)
		s.response.add(r, search)
	}
	return s, nil
}

func (d *side) add(r rule, search scan.Search) {
	d.rules = append(d.rules, r)
	d.enforced = append(d.enforced, search)
	search.Hold = false
	search.Eager = !r.secrets
	d.observed = append(d.observed, search)
	d.binds = d.binds || r.action != config.FilterReport
	d.blocks = d.blocks || r.action == config.FilterBlock
	d.secrets = d.secrets || r.secrets
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return s.name }

// A state is what an exchange remembers of its filters.
type state struct {
	mu    sync.Mutex
	notes []string
	more  bool
	// clean says that the URL was looked through and has no secret.
	clean bool
	// followed are bodies that are decoded beside their way.
	followed  []*follower
	onlookers []*onlooker
	bodies    []*body
	runs      []*run
}

// maxNotes bounds what one event says of what was found.
const maxNotes = 16

// note remembers something for the event, once.
func (st *state) note(text string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, n := range st.notes {
		if n == text {
			return
		}
	}
	if len(st.notes) == maxNotes {
		st.more = true
		return
	}
	st.notes = append(st.notes, text)
}

func (s *Stage) state(x *exchange.Exchange) *state {
	st, ok := x.Kept(s).(*state)
	if !ok {
		st = &state{}
		x.Keep(s, st)
	}
	return st
}

// End implements exchange.EndStage.
func (s *Stage) End(x *exchange.Exchange) {
	st, ok := x.Kept(s).(*state)
	if !ok {
		return
	}
	for _, f := range st.followed {
		f.stop()
	}
	for _, o := range st.onlookers {
		o.share.set(0)
	}
	for _, b := range st.bodies {
		b.close()
	}
	for _, r := range st.runs {
		s.free(r)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.more {
		st.notes = append(st.notes, "and more")
	}
	if len(st.notes) == 0 {
		return
	}
	if x.Record.Message != "" {
		x.Record.Message += "; "
	}
	x.Record.Message += strings.Join(st.notes, "; ")
}

// Request implements exchange.RequestStage.
func (s *Stage) Request(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	req := &x.Request
	side := &s.request
	enforced := !x.Subject.Observe
	if req.Upgrade != "" && enforced && (s.request.binds || s.response.binds) {
		return s.refuseUpgrade(x)
	}
	if req.Upgrade != "" && len(side.rules)+len(s.response.rules) > 0 {
		s.state(x).note("what the connection carries after its upgrade is not filtered")
	}
	if len(side.rules) > 0 {
		r := s.run(x, side)
		refusal := r.url(req)
		if refusal == nil {
			refusal = r.fields(&req.Header, false)
		}
		s.free(r)
		if refusal != nil {
			return refusal
		}
	}
	if s.response.binds && enforced {
		understandable(&req.Header)
	}
	if len(side.rules) == 0 || req.Body == nil || req.Upgrade != "" {
		return nil
	}
	return s.requestBody(x)
}

// Response implements exchange.ResponseStage.
func (s *Stage) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	if len(s.response.rules) == 0 || x.Request.Upgrade != "" || x.Response.Status < 200 {
		return nil
	}
	r := s.run(x, &s.response)
	refusal := r.phrase(&x.Response)
	if refusal == nil {
		refusal = r.fields(&x.Response.Header, false)
	}
	s.free(r)
	if refusal != nil || x.Response.Body == nil {
		return refusal
	}
	return s.responseBody(x)
}

// Interim implements exchange.InterimStage: one in which something is blocked is
// not passed on, which every client can do without.
func (s *Stage) Interim(x *exchange.Exchange, resp *exchange.Response) bool {
	if len(s.response.rules) == 0 {
		return true
	}
	r := s.run(x, &s.response)
	defer s.free(r)
	return r.phrase(resp) == nil && r.fields(&resp.Header, false) == nil
}

// Redact implements exchange.RecordStage: where a rule asks for secrets, none is
// told in the URL of an event, whatever becomes of the request.
func (s *Stage) Redact(x *exchange.Exchange) {
	if st, ok := x.Kept(s).(*state); s.request.secrets && (!ok || !st.clean) {
		x.Record.RedactURL(&x.Request, s.o.Secrets.RedactURL)
	}
}

// refuseUpgrade refuses a protocol whose frames nobody could judge.
func (s *Stage) refuseUpgrade(x *exchange.Exchange) *exchange.Refusal {
	reason := policy.SecretFound
	if s.name == "content_filter" {
		reason = policy.ContentFilter
	}
	return x.Refuse(reason, fmt.Sprintf("an upgrade to %s is refused because the rule %q filters what is sent and cannot look into it; to allow it, "+
		"put a rule without filters (`content_filter: off`, `secrets: off`) for this path before it, or let them report", x.Request.Upgrade, x.Subject.Rule))
}
