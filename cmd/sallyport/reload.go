package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
)

func (e *env) reloadCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "reload",
		Short:   "Apply the configuration file and print its errors",
		Long:    "Has the running daemon read its configuration again. A file with an error changes nothing.",
		Example: "  sudo sallyport reload --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			// The file is the daemon's to judge; ours only says where it listens.
			return e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.Reload(ctx)
				if err != nil {
					return err
				}
				switch {
				case asJSON:
					err = json.NewEncoder(e.stdout).Encode(r)
				case len(r.Errors) == 0:
					_, err = fmt.Fprintf(e.stdout, "reloaded: configuration %.12s\n", r.Hash)
				default:
					fmt.Fprintln(e.stderr, strings.Join(r.Errors, "\n"))
				}
				if err == nil && len(r.Errors) > 0 {
					return exitError(exitUsage)
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
