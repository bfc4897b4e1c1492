package stage

import (
	"sync"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/filter"
	"sallyport/pkg/stage/secrets"
	"sallyport/pkg/stage/size"
)

// filters is what the stages that look into bodies share.
type filters struct {
	memory *filter.Memory
	// detectors are compiled for the first rule that wants them.
	detectors func() (*secrets.Set, error)
}

func newFilters() *filters {
	return &filters{memory: filter.NewMemory(filter.DefaultMemory), detectors: sync.OnceValues(secrets.New)}
}

// sizes appends the stage that bounds the bodies of the rule.
func (*filters) sizes(stages []exchange.Stage, r *config.Rule) []exchange.Stage {
	if r.SizeLimit == nil {
		return stages
	}
	return append(stages, size.New(r.SizeLimit))
}

// stages appends the stage that looks for patterns and secrets.
func (f *filters) stages(stages []exchange.Stage, r *config.Rule) ([]exchange.Stage, error) {
	o := filter.Options{Memory: f.memory}
	if r.Secrets != "" {
		var err error
		if o.Secrets, err = f.detectors(); err != nil {
			return nil, err
		}
	}
	s, err := filter.New(o, r.ContentFilters, r.Stages.Secrets)
	if err != nil || s == nil {
		return stages, err
	}
	return append(stages, s), nil
}

// resources tells how much filters hold back.
func (f *filters) resources() []Resource {
	return []Resource{{Name: "filter_bytes", Entries: f.memory.Used(), Capacity: f.memory.Capacity()}}
}
