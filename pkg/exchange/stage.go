package exchange

import "context"

// An Exchange is one request, its response, and what stages remember between
// the two. It is reused.
type Exchange struct {
	Request  Request
	Response Response

	answered bool
	reached  int
	notes    []note
}

type note struct{ key, value any }

// Reset empties the exchange for the next one.
func (x *Exchange) Reset() {
	x.Request.Reset()
	x.Response.Reset()
	x.answered, x.reached = false, 0
	clear(x.notes)
	x.notes = x.notes[:0]
}

// Answer says that a stage has filled Response itself: later request sides do
// not run and the upstream is not contacted.
func (x *Exchange) Answer() {
	x.answered = true
	x.Response.Local = true
}

// Answered reports whether a stage filled the response.
func (x *Exchange) Answered() bool { return x.answered }

// Keep remembers a value under the key, usually the stage itself, until Reset.
func (x *Exchange) Keep(key, value any) {
	for i := range x.notes {
		if x.notes[i].key == key {
			x.notes[i].value = value
			return
		}
	}
	x.notes = append(x.notes, note{key, value})
}

// Kept gives what was remembered under the key, nil without it.
func (x *Exchange) Kept(key any) any {
	for i := range x.notes {
		if x.notes[i].key == key {
			return x.notes[i].value
		}
	}
	return nil
}

// A Stage is one feature of a rule. One value serves every exchange of the
// rule at the same time: what belongs to an exchange is kept in it. A stage
// that must see a body replaces Body by its own, so that streams stay streams.
type Stage interface {
	// Name is the stage's key in a rule.
	Name() string
	// Request runs before the upstream is contacted. Nil goes on; a refusal
	// ends the exchange.
	Request(ctx context.Context, x *Exchange) *Refusal
	// Response runs when the head of the response is here and nothing of it
	// has been sent to the client. Nil goes on; a refusal replaces the
	// response.
	Response(ctx context.Context, x *Exchange) *Refusal
}

// A Pipeline is the list of stages that a rule was compiled to. A nil
// pipeline, that of a rule without stages, is ready and does nothing.
type Pipeline struct{ stages []Stage }

// NewPipeline gives the pipeline that runs the stages in that order on both
// sides; nil without stages.
func NewPipeline(stages ...Stage) *Pipeline {
	if len(stages) == 0 {
		return nil
	}
	return &Pipeline{stages: append([]Stage(nil), stages...)}
}

// Empty reports whether the pipeline has no stage.
func (p *Pipeline) Empty() bool { return p == nil }

// Request runs the request sides in order until one refuses or answers.
func (p *Pipeline) Request(ctx context.Context, x *Exchange) *Refusal {
	if p == nil {
		return nil
	}
	for i, s := range p.stages {
		x.reached = i + 1
		if refusal := s.Request(ctx, x); refusal != nil {
			return refusal
		}
		if x.answered {
			return nil
		}
	}
	return nil
}

// Response runs the response sides, in the same order, of the stages whose
// request side ran.
func (p *Pipeline) Response(ctx context.Context, x *Exchange) *Refusal {
	if p == nil {
		return nil
	}
	for _, s := range p.stages[:x.reached] {
		if refusal := s.Response(ctx, x); refusal != nil {
			return refusal
		}
	}
	return nil
}
