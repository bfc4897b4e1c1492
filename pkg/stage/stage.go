// Package stage compiles the stages that rules use into pipelines, and keeps
// what outlives a reload: counters, stores, health.
package stage

import (
	"context"
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// Options are what stages work with.
type Options struct{}

// A Set is the stages of all rules, through any number of reloads.
type Set struct {
	opt Options
}

// New makes a set without rules. It starts nothing.
func New(o Options) *Set { return &Set{opt: o} }

// Run does what stages do in the background until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// A Resource is a bounded thing: how many entries or bytes it has, of how many.
type Resource struct {
	Name              string
	Entries, Capacity uint64
}

// Resources tells how full the stages' bounded things are.
func (s *Set) Resources() []Resource { return nil }

// Secrets are the contents of files that the configuration names, by path.
type Secrets map[string][]byte

// Pipelines compiles a configuration: the pipeline of rule i of c.Rules is at
// i. Nothing changes for the pipelines given before.
func (s *Set) Pipelines(c *config.Config, secrets Secrets) ([]*exchange.Pipeline, error) {
	all := make([]*exchange.Pipeline, len(c.Rules))
	for i := range c.Rules {
		p, err := s.pipeline(&c.Rules[i], secrets)
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", c.Rules[i].Name, err)
		}
		all[i] = p
	}
	return all, nil
}

// pipeline puts the stages of one rule into Kong's order.
func (s *Set) pipeline(_ *config.Rule, _ Secrets) (*exchange.Pipeline, error) {
	var stages []exchange.Stage
	return exchange.NewPipeline(stages...), nil
}
