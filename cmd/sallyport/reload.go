package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
)

func (e *env) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "reload",
		Short:   "Apply the configuration file and print its errors",
		Long:    "Has the running daemon read its configuration again. A file with an error changes nothing.",
		Example: "  sudo sallyport reload",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			// The file is the daemon's to judge; ours only says where it listens.
			return e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.Reload(ctx)
				if err != nil {
					return err
				}
				for _, mistake := range r.Errors {
					fmt.Fprintln(e.stderr, mistake)
				}
				if len(r.Errors) > 0 {
					return exitError(exitUsage)
				}
				_, err = fmt.Fprintf(e.stdout, "reloaded: configuration %.12s\n", r.Hash)
				return err
			})
		},
	}
}
