package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
)

func (e *env) cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "cache",
		Short:   "Drop what the caches of rules have stored",
		Example: "  sudo sallyport cache purge --rule docs",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(e.cachePurgeCommand())
	return c
}

func (e *env) cachePurgeCommand() *cobra.Command {
	var asJSON bool
	var rule string
	c := &cobra.Command{
		Use:     "purge",
		Short:   "Drop what the caches of rules have stored",
		Long:    "Drops what the running daemon has stored for all rules with a cache, or for one, and prints how much that was.",
		Example: "  sudo sallyport cache purge --rule docs --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				p, err := client.PurgeCache(ctx, rule)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(e.stdout).Encode(p)
				}
				_, err = fmt.Fprintf(e.stdout, "purged: %d responses, %d bytes\n", p.Entries, p.Bytes)
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&rule, "rule", "", "only what this rule has stored")
	return c
}
