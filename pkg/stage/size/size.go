// Package size is the stage that bounds bodies, by what comes on the wire and,
// where a filter decompresses, by what it becomes.
package size

import (
	"context"
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A Stage holds the bodies of one rule to their limits.
type Stage struct{ request, response int64 }

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.ResponseStage = (*Stage)(nil)
)

// New makes the stage of a rule.
func New(c *config.SizeLimit) *Stage {
	return &Stage{request: int64(c.Request), response: int64(c.Response)}
}

// Name implements exchange.Stage.
func (*Stage) Name() string { return "size_limit" }

// key is where an exchange keeps its Stage, for Decoded.
type key struct{}

// Request implements exchange.RequestStage. What is declared too large is
// refused before anything of it is read; the rest is counted as it comes.
func (s *Stage) Request(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	x.Keep(key{}, s)
	req := &x.Request
	if s.request == 0 || req.Body == nil {
		return nil
	}
	if req.Length > s.request {
		return s.tooLarge(x, false)
	}
	if req.Length == exchange.UnknownLength {
		req.Body = exchange.Watch(req.Body, &counter{x: x, s: s})
	}
	return nil
}

// Resume implements exchange.ResumeStage.
func (s *Stage) Resume(x *exchange.Exchange) { x.Keep(key{}, s) }

// Response implements exchange.ResponseStage.
func (s *Stage) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	resp := &x.Response
	if s.response == 0 || resp.Body == nil {
		return nil
	}
	if resp.Length > s.response {
		return s.tooLarge(x, true)
	}
	if resp.Length == exchange.UnknownLength {
		resp.Body = exchange.Watch(resp.Body, &counter{x: x, s: s, response: true})
	}
	return nil
}

// Decoded judges a body that a filter has decompressed to n bytes so far; nil
// where they are no more than the rule allows.
func Decoded(x *exchange.Exchange, response bool, n int64) *exchange.Refusal {
	s, _ := x.Kept(key{}).(*Stage)
	if s == nil {
		return nil
	}
	limit := s.request
	if response {
		limit = s.response
	}
	if limit == 0 || n <= limit {
		return nil
	}
	return x.Object(s.tooLarge(x, response))
}

func (s *Stage) tooLarge(x *exchange.Exchange, response bool) *exchange.Refusal {
	reason, what, limit := policy.RequestTooLarge, "request", s.request
	if response {
		reason, what, limit = policy.ResponseTooLarge, "response", s.response
	}
	return x.Refuse(reason, fmt.Sprintf("the %s's body is larger than %d bytes; to allow it, raise size_limit.%s of the rule %q", what, limit, what, x.Subject.Rule))
}

// A counter counts a body whose length nobody declared.
type counter struct {
	x        *exchange.Exchange
	s        *Stage
	response bool
	n        int64
}

// Watch implements exchange.Watcher: the piece that goes beyond the limit is
// not passed on.
func (c *counter) Watch(p []byte, _ bool) error {
	c.n += int64(len(p))
	limit := c.s.request
	if c.response {
		limit = c.s.response
	}
	if c.n <= limit {
		return nil
	}
	if r := c.x.Object(c.s.tooLarge(c.x, c.response)); r != nil {
		return r
	}
	return nil
}
