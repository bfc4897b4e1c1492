package exchange

// A FallbackStage can answer where the upstream cannot.
type FallbackStage interface {
	Stage
	// Fallback is asked where the upstream gave no response and the refusal is
	// about to be answered. True says that it has filled x.Response, which is
	// delivered like an answer of the upstream.
	Fallback(x *Exchange, r *Refusal) bool
}

// Fallback asks the stages whose request side was reached, in order, until one
// answers. It is for failures only, so that steps do not carry it.
func (p *Pipeline) Fallback(x *Exchange, r *Refusal) bool {
	if p == nil {
		return false
	}
	for i := range p.stages[:x.reached] {
		if s, ok := p.stages[i].stage.(FallbackStage); ok && s.Fallback(x, r) {
			return true
		}
	}
	return false
}
