// Package stage compiles the stages that rules use into pipelines, and keeps
// what outlives a reload: counters, stores, health.
package stage

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"go.uber.org/zap"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// Options are what stages work with.
type Options struct {
	// Counters is the file in which counters of rate limits outlive the process,
	// which becomes the Set's; nil: they end with it.
	Counters *os.File
	// Log is zap.NewNop() by default.
	Log *zap.Logger
	// Note is told what belongs into the audit, in a sentence.
	Note func(string)
}

// A Set is the stages of all rules, through any number of reloads.
type Set struct {
	opt     Options
	limits  *limits
	filters *filters
	caches  *caches
	records *records
}

// New makes a set without rules. It starts nothing.
func New(o Options) *Set {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	return &Set{opt: o, limits: newLimits(o.Counters, o.Log, o.Note), filters: newFilters(), caches: newCaches(), records: newRecords()}
}

// Close writes down what outlives the process, after the last request.
func (s *Set) Close() error { return s.limits.close() }

// Run does what stages do in the background until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { s.limits.run(ctx) })
	all.Go(func() { s.caches.run(ctx) })
	all.Wait()
	return nil
}

// A Resource is a bounded thing: how many entries or bytes it has, of how many.
type Resource struct {
	Name              string
	Entries, Capacity uint64
}

// Resources tells how full the stages' bounded things are.
func (s *Set) Resources() []Resource {
	return slices.Concat(s.limits.resources(), s.filters.resources(), s.caches.resources(), s.records.resources())
}

// Problems tells, for the status, what keeps stages from being what the rules say.
func (s *Set) Problems(c *config.Config) []string { return s.limits.problems(c.Rules) }

// Secrets are the contents of files that the configuration names, by path.
type Secrets map[string][]byte

// Pipelines compiles a configuration: the pipeline of rule i of c.Rules is at
// i. Nothing changes for the pipelines given before.
func (s *Set) Pipelines(c *config.Config, secrets Secrets) ([]*exchange.Pipeline, error) {
	all := make([]*exchange.Pipeline, len(c.Rules))
	s.caches.look(c)
	for i := range c.Rules {
		p, err := s.pipeline(c, &c.Rules[i], secrets)
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", c.Rules[i].Name, err)
		}
		all[i] = p
	}
	if err := s.limits.prepare(c, secrets); err != nil {
		return nil, err
	}
	s.limits.retain(c.Rules)
	s.caches.apply(c)
	return all, nil
}

// pipeline puts the stages of one rule into Kong's order.
func (s *Set) pipeline(c *config.Config, r *config.Rule, secrets Secrets) (*exchange.Pipeline, error) {
	stages, err := authStage(nil, r, secrets)
	if err != nil {
		return nil, err
	}
	stages = s.filters.sizes(stages, r)
	stages = s.limits.stages(stages, r)
	if stages, err = s.filters.stages(stages, r); err != nil {
		return nil, err
	}
	if stages, err = headerStage(stages, r); err != nil {
		return nil, err
	}
	stages = s.caches.stages(stages, c, r)
	if stages, err = s.records.stages(stages, r, s.filters); err != nil {
		return nil, err
	}
	return exchange.NewPipeline(stages...), nil
}
