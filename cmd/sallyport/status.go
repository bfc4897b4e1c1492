package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
	"sallyport/pkg/admin/show"
	"sallyport/pkg/config"
)

// askDaemon calls f with a client of the running daemon, and says what to do
// where there is none.
func (e *env) askDaemon(c *cobra.Command, f func(context.Context, *admin.Client) error) error {
	// A daemon runs on with what it read when the file was good, and its status
	// is what tells of the mistake: then it is looked for where it is by default.
	conf, mistake := loadConfig(c, config.Enforce)
	if mistake != nil {
		conf = config.Default(config.Enforce)
	}
	client := admin.NewClient(conf.Admin.Socket)
	defer client.Close()
	err := f(c.Context(), client)
	switch {
	case mistake != nil && errors.Is(err, admin.ErrNotRunning):
		return mistake
	case errors.Is(err, admin.ErrNotRunning) && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w; join group %s or use sudo", c.Name(), err, conf.Admin.Group)
	case errors.Is(err, admin.ErrNotRunning):
		return fmt.Errorf("%s: %w; start it with: sudo sallyport run", c.Name(), err)
	}
	return err
}

func (e *env) statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show whether the gate holds, and for whom",
		Long:    "Shows readiness, enforcement, workloads and problems. The exit status is 0 when sallyport is ready, else 1.",
		Example: "  sallyport status --json | jq .problems",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					err = json.NewEncoder(e.stdout).Encode(s)
				} else {
					err = show.Status(e.stdout, s)
				}
				if err == nil && !s.Ready {
					return exitError(exitFailed)
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
