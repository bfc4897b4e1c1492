package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/install"
	"sallyport/pkg/keeper"
	"sallyport/pkg/systemd"
)

func (e *env) uninstallCommand() *cobra.Command {
	var o uninstallOptions
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the service and take everything away that it added",
		Long: `Stops the service, takes the gate away as "sallyport teardown" does, drop-ins of
tagged units included, and removes what "sallyport install" put down. It refuses
while something runs behind the gate, which it names: without the gate that
would be free. --stop ends it first. Configuration and audit files stay unless
--purge is given.`,
		Example: "  sudo sallyport uninstall\n  sudo sallyport uninstall --stop --purge",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := e.uninstall(c, o); err != nil {
				return fmt.Errorf("uninstall: %w", err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&o.stop, "stop", false, "end what still runs in tagged cgroups first")
	c.Flags().BoolVar(&o.purge, "purge", false, "remove configuration, audit files, state and the account too")
	c.Flags().BoolVar(&o.packaged, "package", false, "leave the files to a package manager, which calls this")
	c.Flags().MarkHidden("package")
	return c
}

type uninstallOptions struct{ stop, purge, packaged bool }

func (e *env) uninstall(c *cobra.Command, o uninstallOptions) error {
	if os.Geteuid() != 0 {
		return errors.New("not root: run it with sudo")
	}
	if !o.packaged {
		if err := installTarget().Packaged(); err != nil {
			return err
		}
	}
	path, err := configPath(c)
	if err != nil {
		return err
	}
	// A broken file must not keep anybody from getting rid of it.
	conf, err := keeper.LenientConfig(path)
	if err != nil {
		fmt.Fprintf(e.stderr, "sallyport: uninstall: %v; going on with what can be read of it\n", err)
	}
	ctx, cancel := context.WithTimeout(c.Context(), stopTimeout)
	defer cancel()
	if !o.stop {
		err := keeper.Busy(conf)
		if busy, ok := errors.AsType[*keeper.BusyError](err); ok {
			e.name(busy)
		}
		if err != nil {
			return err
		}
	}
	var m *systemd.Manager
	if systemd.Available() {
		if m, err = systemd.Connect(ctx); err != nil {
			return err
		}
		defer m.Close()
		if err := stopService(ctx, m, conf); err != nil {
			return err
		}
	}
	if err := e.teardown(ctx, conf, o.stop); err != nil {
		return err
	}
	if m != nil {
		if err := m.Disable(ctx, install.Units()...); err != nil {
			return err
		}
	}
	if o.packaged {
		return nil
	}
	return e.removeInstalled(ctx, m, conf, o.purge)
}

// stopService stops the worker, the keeper and, with the slice, the lock; the
// last of them stops what systemd has in the slice. Units that there are not are
// passed over: a removal may have got halfway before.
func stopService(ctx context.Context, m *systemd.Manager, conf *config.Config) error {
	units := slices.Clone(install.Units()[1:])
	slices.Reverse(units)
	for _, unit := range append(units, conf.Slice, "sallyport.slice") {
		if err := m.Stop(ctx, unit); err != nil && !errors.Is(err, systemd.ErrNoUnit) {
			return err
		}
	}
	return nil
}

// removeInstalled removes what `install` put down.
func (e *env) removeInstalled(ctx context.Context, m *systemd.Manager, conf *config.Config, purge bool) error {
	errs := []error{installTarget().Remove(purge)}
	if purge {
		for _, dir := range []string{conf.StateDir, conf.RuntimeDir, filepath.Dir(conf.Audit.File.Path)} {
			errs = append(errs, purgeDirectory(dir, conf))
		}
	}
	if m != nil {
		if purge {
			errs = append(errs, removeAccount(ctx, m))
		}
		errs = append(errs, m.DaemonReload(ctx))
		m.ResetFailed(ctx, install.Units()...)
	}
	return errors.Join(errs...)
}

// purgeDirectory removes a directory with all that is in it where it is the one
// that packages make, and ours alone therefore. Of one that the configuration
// names only audit files go: anything may be beside them.
func purgeDirectory(dir string, conf *config.Config) error {
	d := config.Default(config.Enforce)
	if slices.Contains([]string{d.StateDir, d.RuntimeDir, filepath.Dir(d.Audit.File.Path)}, dir) {
		return os.RemoveAll(dir)
	}
	if dir != filepath.Dir(conf.Audit.File.Path) {
		return nil
	}
	files, err := filepath.Glob(conf.Audit.File.Path + "*")
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}

// removeAccount removes the worker's account and group.
func removeAccount(ctx context.Context, m *systemd.Manager) error {
	const name = "sallyport"
	if _, err := user.Lookup(name); err == nil {
		if err := m.RunOnce(ctx, oneshots+"userdel.service", "sallyport uninstall", "userdel", name); err != nil {
			return err
		}
	}
	// userdel removes the group of that name where nobody else is in it.
	if _, err := user.LookupGroup(name); err == nil {
		return m.RunOnce(ctx, oneshots+"groupdel.service", "sallyport uninstall", "groupdel", name)
	}
	return nil
}
