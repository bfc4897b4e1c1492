package main

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin/show"
	"sallyport/pkg/audit"
	"sallyport/pkg/report"
)

func (e *env) reportCommand() *cobra.Command {
	var asJSON bool
	var top int
	c := &cobra.Command{
		Use:   "report FILE...",
		Short: "Add up audit files: refusals, failures, the busiest, slowest and largest",
		Long: `Reads audit files, also those that were packed with gzip, and prints tables:
rate-limit violations, authentication failures, server errors, what enforcing
would deny, what was denied, the busiest workloads, hosts and rules, the slowest
and the largest exchanges. "-" is standard input.`,
		Example: `  sallyport report --since 24h /var/log/sallyport/audit.jsonl*
  sallyport report --workload github --json audit.jsonl`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			filter, err := filterOf(c)
			if err != nil {
				return err
			}
			if top < 1 || top > 1000 {
				return usageError{fmt.Errorf("report: --top %d: want 1 to 1000", top)}
			}
			r := report.New(top)
			for _, name := range args {
				if err := e.reportFile(r, name, filter); err != nil {
					return fmt.Errorf("report: %w", err)
				}
			}
			s := r.Summary()
			if asJSON {
				return json.NewEncoder(e.stdout).Encode(s)
			}
			return show.Report(e.stdout, &s, time.Local)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().IntVar(&top, "top", 10, "how many `rows` each table has at most")
	addFilterFlags(c)
	return c
}

// reportFile adds one file; lines that are no event are counted.
func (e *env) reportFile(r *report.Report, name string, filter *audit.Filter) error {
	in := e.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer z.Close()
		in = z
	}
	lines := audit.NewReader(in)
	for {
		var event audit.Event
		_, err := lines.Next(&event)
		var wrong *audit.LineError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &wrong):
			r.Unreadable()
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case filter.Match(&event):
			r.Add(&event)
		}
	}
}
