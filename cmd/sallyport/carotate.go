package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
	"sallyport/pkg/ca"
	"sallyport/pkg/config"
)

func (e *env) caRotateCommand() *cobra.Command {
	var forget bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new root in place of the one in use",
		Long: `Makes a new root and has the daemon take it over: first every trust directory
holds both, then certificates come from the new one. For 30 days the old root
stays trusted and vouches for the new one, so that programs which have read it go
on; start them again within that time. --forget ends the old one at once, for a key
that somebody may have: what runs has to be started again to reach anything.
The host's own store is not touched: run "sallyport ca trust" again if it was used.`,
		Example: "  sudo sallyport ca rotate\n  sudo sallyport ca rotate --forget",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("ca rotate: not root: run it with sudo")
			}
			conf, err := loadConfig(c, config.Enforce)
			if err != nil {
				return err
			}
			root, err := ca.Rotate(conf.TLS.CADir, forget)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("ca rotate: no authority in %s yet: the first run or exec makes it", conf.TLS.CADir)
			}
			if err != nil {
				return fmt.Errorf("ca rotate: %w", err)
			}
			fmt.Fprintf(e.stdout, "root    %s\n", root.Fingerprint())
			if !forget {
				fmt.Fprintf(e.stdout, "overlap until %s\n", time.Now().Add(ca.Overlap).Format(time.DateOnly))
			}
			if _, err := os.Lstat(conf.Admin.Socket); errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintln(e.stdout, "no daemon runs: the next one takes it over")
				return nil
			}
			err = e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.Reload(ctx)
				if err == nil && len(r.Errors) > 0 {
					err = errors.New(r.Errors[0])
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("ca rotate: the new root is in place, and the daemon has not said that it uses it: %w; see \"sallyport status\", then \"sallyport reload\"", err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&forget, "forget", false, "do not trust the old root any more")
	return c
}
