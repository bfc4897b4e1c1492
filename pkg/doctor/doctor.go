// Package doctor looks at a host and says, check by check, whether sallyport
// can guard it, and what to do where it cannot.
package doctor

import (
	"context"
	"time"
)

// A Status is how a check ended.
type Status string

// The states. Skipped says why in the detail; it is no failure.
const (
	OK      Status = "ok"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// A Result is one line of the report.
type Result struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Detail is what was found.
	Detail string `json:"detail"`
	// Remedy is what to do; only where the check failed.
	Remedy string `json:"remedy,omitempty"`
}

// A check finds one thing out.
type check struct {
	name string
	run  func(context.Context) Result
}

// checkTimeout bounds one check.
const checkTimeout = 20 * time.Second

// Run runs every check in order and hands each result to show as soon as it is
// there. It reports whether none failed.
func (d *Doctor) Run(ctx context.Context, show func(Result) error) (bool, error) {
	well := true
	for _, c := range d.checks() {
		limited, cancel := context.WithTimeout(ctx, checkTimeout)
		r := c.run(limited)
		cancel()
		r.Check = c.name
		if r.Status == Failed {
			well = false
		}
		if err := show(r); err != nil {
			return false, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return well, nil
}

func ok(detail string) Result { return Result{Status: OK, Detail: detail} }

func skipped(detail string) Result { return Result{Status: Skipped, Detail: detail} }

func failed(detail, remedy string) Result {
	return Result{Status: Failed, Detail: detail, Remedy: remedy}
}
