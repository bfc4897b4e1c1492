package main

import (
	"context"
	"encoding/json"
	"errors"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin"
	"sallyport/pkg/admin/show"
)

func (e *env) flowsCommand() *cobra.Command {
	var asJSON, follow bool
	c := &cobra.Command{
		Use:     "flows",
		Short:   "List the open connections with the kernel's counters",
		Example: "  sallyport flows --follow --workload github",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := filterOf(c)
			if err != nil {
				return err
			}
			return e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				if follow {
					return e.followFlows(ctx, func(ctx context.Context, print func(*admin.Flow) error) error {
						return client.FollowFlows(ctx, filter, print)
					}, asJSON)
				}
				list, err := client.Flows(ctx, filter)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(e.stdout).Encode(list)
				}
				return show.Flows(e.stdout, list)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; with --follow one object a line")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with each flow that opens or closes")
	addFilterFlags(c)
	return c
}

// followFlows prints flows until somebody interrupts.
func (e *env) followFlows(ctx context.Context, follow func(context.Context, func(*admin.Flow) error) error, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	print := func(f *admin.Flow) error { return show.Flow(e.stdout, f) }
	if asJSON {
		out := json.NewEncoder(e.stdout)
		print = func(f *admin.Flow) error { return out.Encode(f) }
	} else if err := show.FlowHeader(e.stdout); err != nil {
		return err
	}
	return untilInterrupted(ctx, follow(ctx, print))
}

// untilInterrupted makes the end that the user asked for no error.
func untilInterrupted(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}
