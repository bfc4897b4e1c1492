package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"sallyport/pkg/ca"
)

func (e *env) caTrustCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "trust",
		Short: "Have the whole host trust our root",
		Long: `Puts the root into the host's own certificate store and has that bring its bundles
up to date. Workloads need none of this: they are given the root by themselves.
It is for programs that are not behind the gate and are to look into what is, and
it lets whoever has the root's key vouch for any name to everybody here.`,
		Example: "  sudo sallyport ca trust",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, root, err := rootCertificate(c)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("ca trust: not root: run it with sudo")
			}
			store, err := ca.FindHostStore("")
			if err != nil {
				return fmt.Errorf("ca trust: %w", err)
			}
			if _, err := store.Put(root); err != nil {
				return fmt.Errorf("ca trust: %w", err)
			}
			if err := e.updateStore(c.Context(), store.Update); err != nil {
				return fmt.Errorf("ca trust: %w", err)
			}
			_, err = fmt.Fprintf(e.stdout, "in %s; \"sallyport ca untrust\" takes it out\n", store.Dir)
			return err
		},
	}
}

func (e *env) caUntrustCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "untrust",
		Short:   "Take our root out of the host's certificate store",
		Long:    `Undoes "sallyport ca trust". What workloads are given is not changed.`,
		Example: "  sudo sallyport ca untrust",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("ca untrust: not root: run it with sudo")
			}
			if err := e.untrust(c.Context()); err != nil {
				return fmt.Errorf("ca untrust: %w", err)
			}
			return nil
		},
	}
}

// untrust takes our root out of the host's store, if it is in one.
func (e *env) untrust(ctx context.Context) error {
	store, err := ca.FindHostStore("")
	if errors.Is(err, ca.ErrNoHostStore) {
		return nil
	}
	if err != nil {
		return err
	}
	if there, err := store.Remove(); !there || err != nil {
		return err
	}
	return e.updateStore(ctx, store.Renew)
}

// updateStore runs the distribution's own command: what belongs to its bundles
// (hash links, Java's store, hooks of packages) is known to nothing else. This is
// the one tool of the host that sallyport runs itself; others systemd runs for it.
func (e *env) updateStore(ctx context.Context, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %w: %s", argv, err, out)
	}
	return nil
}
