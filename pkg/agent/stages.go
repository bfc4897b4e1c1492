package agent

import (
	"context"
	"fmt"
	"slices"

	"sallyport/pkg/admin"
	"sallyport/pkg/audit"
	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/metrics"
	"sallyport/pkg/stage"
)

// openStages makes what stages keep through reloads, and the stages of the
// first configuration.
func (w *worker) openStages() error {
	w.stages = stage.New(stage.Options{
		Counters: w.files.counters,
		Log:      w.log.Named("stages"),
		Note: func(sentence string) {
			w.audit.Record(&audit.Event{Kind: audit.Lifecycle, Message: sentence})
		},
	})
	s := w.config.Load()
	return w.compileStages(s, &w.args.Config)
}

// compileStages fills s.pipelines.
func (w *worker) compileStages(s *settings, c *protocol.Configuration) (err error) {
	secrets := make(stage.Secrets, len(c.Passwords))
	for _, f := range c.Passwords {
		secrets[f.Name] = f.Data
	}
	s.pipelines, err = w.stages.Pipelines(s.config, secrets)
	return err
}

// PurgeCache implements admin.Backend.
func (w *worker) PurgeCache(_ context.Context, rule string) (*admin.Purged, error) {
	rules := w.config.Load().config.Rules
	if rule != "" && !slices.ContainsFunc(rules, func(r config.Rule) bool { return r.Name == rule }) {
		return nil, fmt.Errorf("%w: no rule is called %q", admin.ErrBadRequest, rule)
	}
	var p admin.Purged
	p.Entries, p.Bytes = w.stages.Purge(rule)
	return &p, nil
}

// stageResources lists the bounded things of stages.
func (w *worker) stageResources() []metrics.Resource {
	var r []metrics.Resource
	for _, u := range w.stages.Resources() {
		r = append(r, metrics.Resource{Name: u.Name, Entries: u.Entries, Capacity: u.Capacity})
	}
	return r
}
