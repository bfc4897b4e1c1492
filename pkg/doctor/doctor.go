// Package doctor looks at a host and says, check by check, whether sallyport
// can guard it, and what to do where it cannot.
package doctor

import (
	"context"
	"time"
)

// A Status is how a check ended.
type Status string

// The states. Warned and Skipped are no failures: what was found may be meant so,
// or there was nothing to look at; the detail says why.
const (
	OK      Status = "ok"
	Failed  Status = "failed"
	Warned  Status = "warning"
	Skipped Status = "skipped"
)

// A Result is one line of the report.
type Result struct {
	// Section is what the check is about: host, service, containers or trust.
	Section string `json:"section"`
	Check   string `json:"check"`
	Status  Status `json:"status"`
	// Detail is what was found.
	Detail string `json:"detail"`
	// Remedy is what to do; only where the check failed or warns.
	Remedy string `json:"remedy,omitempty"`
}

// A check finds one thing out, or, where it has many instead of run, as many as
// there are.
type check struct {
	name string
	run  func(context.Context) Result
	many func(context.Context) []Result
}

// A section is what several checks are about.
type section struct {
	name   string
	checks []check
}

// checkTimeout bounds one check.
const checkTimeout = 20 * time.Second

// Run runs every check in order and hands each result to show as soon as it is
// there. It reports whether none failed.
func (d *Doctor) Run(ctx context.Context, show func(Result) error) (bool, error) {
	well := true
	for _, part := range d.sections() {
		for _, c := range part.checks {
			for _, r := range c.results(ctx) {
				r.Section = part.name
				if r.Status == Failed {
					well = false
				}
				if err := show(r); err != nil {
					return false, err
				}
			}
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
		}
	}
	return well, nil
}

// results runs the check.
func (c *check) results(ctx context.Context) []Result {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if c.many == nil {
		r := c.run(ctx)
		r.Check = c.name
		return []Result{r}
	}
	list := c.many(ctx)
	for i := range list {
		if list[i].Check == "" {
			list[i].Check = c.name
		}
	}
	return list
}

func ok(detail string) Result { return Result{Status: OK, Detail: detail} }

func skipped(detail string) Result { return Result{Status: Skipped, Detail: detail} }

func failed(detail, remedy string) Result {
	return Result{Status: Failed, Detail: detail, Remedy: remedy}
}

func warned(detail, remedy string) Result {
	return Result{Status: Warned, Detail: detail, Remedy: remedy}
}
