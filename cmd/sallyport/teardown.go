package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper"
)

func (e *env) teardownCommand() *cobra.Command {
	var stop bool
	c := &cobra.Command{
		Use:   "teardown",
		Short: "Take the gate away: programs, table, cgroups, trust files",
		Long: `Removes everything that sallyport added to the host, what a killed exec left
included; where the daemon had a --config, give the same. It refuses while the
daemon or an exec runs, and while something runs in a tagged cgroup, which it
names; --stop ends the latter first. Audit files and the configuration stay.`,
		Example: "  sudo sallyport teardown\n  sudo sallyport teardown --stop",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("teardown: not root: run it with sudo")
			}
			conf, err := loadConfig(c, config.Enforce)
			if err != nil {
				return err
			}
			err = keeper.Teardown(c.Context(), conf, stop)
			var busy *keeper.BusyError
			if errors.As(err, &busy) {
				for _, p := range busy.Processes {
					fmt.Fprintf(e.stderr, "  %s\n", p)
				}
			}
			if err != nil {
				return fmt.Errorf("teardown: %w", err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&stop, "stop", false, "end what still runs in tagged cgroups first")
	return c
}
