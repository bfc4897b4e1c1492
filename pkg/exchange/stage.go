package exchange

import "context"

// A Stage is one feature of a rule. One value serves every exchange of the
// rule at the same time: what belongs to an exchange is kept in it (Keep). A
// stage that must see a body replaces Body (Watch, or its own), so
// that streams stay streams. What a stage does is told by which of the
// interfaces below it has.
type Stage interface {
	// Name is the stage's key in a rule.
	Name() string
}

// A RequestStage acts before the upstream is contacted.
type RequestStage interface {
	Stage
	// Request gives nil to go on; a refusal ends the exchange, or is noted where
	// the exchange is only observed. It may wait until ctx ends, and may call
	// x.Answer.
	Request(ctx context.Context, x *Exchange) *Refusal
}

// A ResponseStage acts when the head of the upstream's response is here and
// nothing of it has been sent to the client. It does not see what sallyport
// itself answers.
type ResponseStage interface {
	Stage
	// Response gives nil to go on; a refusal replaces the response, or is noted
	// where the exchange is only observed.
	Response(ctx context.Context, x *Exchange) *Refusal
}

// An InterimStage acts on the interim responses (1xx) of the upstream, which
// have fields too.
type InterimStage interface {
	Stage
	// Interim may change the fields of resp; false: it is not passed on.
	Interim(x *Exchange, resp *Response) bool
}

// A DeliveryStage sees the head of every response last, whoever made it: the
// upstream, another stage, or sallyport that refuses. It may change the head.
type DeliveryStage interface {
	Stage
	Deliver(x *Exchange)
}

// A WithdrawStage takes back what its request side counted.
type WithdrawStage interface {
	Stage
	// Withdraw is called where the request was let through here and did not go
	// out: a later stage refused or answered it.
	Withdraw(x *Exchange)
}

// A RescueStage can answer in the place of an upstream that failed.
type RescueStage interface {
	Stage
	// Rescue is called with what the workload is to be told. True says that
	// Response was filled with something better.
	Rescue(x *Exchange, r *Refusal) bool
}

// A RecordStage takes out of the record what no sink may see.
type RecordStage interface {
	Stage
	// Redact is called once for each exchange of the rule, after End, whether or
	// not its request side was reached.
	Redact(x *Exchange)
}

// An EndStage is told that the exchange is over.
type EndStage interface {
	Stage
	// End is called once for each exchange whose request side was reached, or that
	// a stage before has answered, when nobody reads its bodies any more and before
	// it is recorded.
	End(x *Exchange)
}

// A Pipeline is the list of stages that a rule was compiled to. A nil
// pipeline, that of a rule without stages, is ready and does nothing.
type Pipeline struct{ stages []step }

// A step is a stage with what it does.
type step struct {
	stage    Stage
	request  RequestStage
	response ResponseStage
	interim  InterimStage
	delivery DeliveryStage
	withdraw WithdrawStage
	rescue   RescueStage
	end      EndStage
	record   RecordStage
}

// NewPipeline gives the pipeline that runs the stages in that order on both
// sides; nil without stages.
func NewPipeline(stages ...Stage) *Pipeline {
	if len(stages) == 0 {
		return nil
	}
	p := &Pipeline{stages: make([]step, len(stages))}
	for i, s := range stages {
		p.stages[i].stage = s
		p.stages[i].request, _ = s.(RequestStage)
		p.stages[i].response, _ = s.(ResponseStage)
		p.stages[i].interim, _ = s.(InterimStage)
		p.stages[i].delivery, _ = s.(DeliveryStage)
		p.stages[i].withdraw, _ = s.(WithdrawStage)
		p.stages[i].rescue, _ = s.(RescueStage)
		p.stages[i].end, _ = s.(EndStage)
		p.stages[i].record, _ = s.(RecordStage)
	}
	return p
}

// Empty reports whether the pipeline has no stage.
func (p *Pipeline) Empty() bool { return p == nil }

// Stage gives the stage of that name, nil without one.
func (p *Pipeline) Stage(name string) Stage {
	if p == nil {
		return nil
	}
	for i := range p.stages {
		if p.stages[i].stage.Name() == name {
			return p.stages[i].stage
		}
	}
	return nil
}

// Request runs the request sides in order until one refuses or answers; then
// those before it take back what they counted.
func (p *Pipeline) Request(ctx context.Context, x *Exchange) *Refusal {
	if p == nil {
		return nil
	}
	for i := range p.stages {
		s := &p.stages[i]
		x.reached = i + 1
		if s.request == nil {
			continue
		}
		if refusal := x.Object(s.request.Request(ctx, x)); refusal != nil {
			p.withdraw(x, i)
			return refusal
		}
		if x.answered {
			// What is asked for all the same goes out, and counts.
			if x.Repeated() == nil {
				p.withdraw(x, i)
			}
			return nil
		}
	}
	return nil
}

// Interim runs the stages over an interim response of the upstream and reports
// whether it is to be passed on.
func (p *Pipeline) Interim(x *Exchange, resp *Response) bool {
	if p == nil {
		return true
	}
	for i := range p.stages[:x.reached] {
		if s := p.stages[i].interim; s != nil && !s.Interim(x, resp) {
			return false
		}
	}
	return true
}

// Withdraw makes every stage take back what it counted: the request passed them
// all and did not go out for another reason.
func (p *Pipeline) Withdraw(x *Exchange) {
	if p != nil {
		p.withdraw(x, x.reached)
	}
}

// withdraw is Withdraw of the first n stages.
func (p *Pipeline) withdraw(x *Exchange, n int) {
	for i := n - 1; i >= 0; i-- {
		if s := p.stages[i].withdraw; s != nil {
			s.Withdraw(x)
		}
	}
}

// Response runs the response sides, in the same order, over a response of the
// upstream.
func (p *Pipeline) Response(ctx context.Context, x *Exchange) *Refusal {
	if p == nil {
		return nil
	}
	for i := range p.stages[:x.reached] {
		s := p.stages[i].response
		if s == nil {
			continue
		}
		if refusal := x.Object(s.Response(ctx, x)); refusal != nil {
			return refusal
		}
	}
	return nil
}

// Rescue asks the stages, in order, for an answer in the place of an upstream
// that failed, and reports whether one had it.
func (p *Pipeline) Rescue(x *Exchange, r *Refusal) bool {
	if p == nil {
		return false
	}
	for i := range p.stages[:x.reached] {
		if s := p.stages[i].rescue; s != nil && s.Rescue(x, r) {
			x.Answer()
			return true
		}
	}
	return false
}

// told gives how many stages learn of the end of the exchange: those whose
// request side was reached and, where a stage has answered, those after it too.
func (p *Pipeline) told(x *Exchange) int {
	if x.answered {
		return len(p.stages)
	}
	return x.reached
}

// Deliver runs the last look at the head of a response, in order, of the stages
// whose request side was reached and, where one has answered, of those after it.
func (p *Pipeline) Deliver(x *Exchange) {
	if p == nil {
		return
	}
	for i := range p.stages[:p.told(x)] {
		if s := p.stages[i].delivery; s != nil {
			s.Deliver(x)
		}
	}
}

// End tells the stages whose request side was reached that the exchange is
// over.
func (p *Pipeline) End(x *Exchange) {
	if p == nil {
		return
	}
	for i := range p.stages[:p.told(x)] {
		if s := p.stages[i].end; s != nil {
			s.End(x)
		}
	}
}

// Redact has the record redacted.
func (p *Pipeline) Redact(x *Exchange) {
	if p == nil {
		return
	}
	for i := range p.stages {
		if s := p.stages[i].record; s != nil {
			s.Redact(x)
		}
	}
}
