package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/install"
	"sallyport/pkg/keeper"
	"sallyport/pkg/systemd"
)

// startTimeout bounds the start of all units.
const startTimeout = 3 * time.Minute

// oneshots are the transient units by which an installation has systemd make and
// remove the worker's account. Only systemd-sysusers(8) and userdel(8) know all
// that belongs to one; packages run the same.
const oneshots = "sallyport-install-"

func (e *env) installCommand() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Install this binary as a service",
		Long: `Puts this binary, its units, manual pages and completions on the host, as
packages do, makes the account of the worker, and starts the service. Run again
it upgrades: what runs behind the gate goes on, and a configuration that
somebody has edited stays. Nothing is tagged and nothing allowed by it.`,
		Example: "  sudo ./sallyport install --dry-run\n  sudo ./sallyport install",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := e.install(c.Context(), dryRun); err != nil {
				return fmt.Errorf("install: %w", err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would be done")
	return c
}

// installTarget is this host, with the running binary.
func installTarget() *install.Target {
	return &install.Target{Binary: "/proc/self/exe", State: config.Default(config.Enforce).StateDir}
}

func (e *env) install(ctx context.Context, dryRun bool) error {
	target := installTarget()
	steps, err := target.Plan()
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.Action != install.Same {
			fmt.Fprintf(e.stdout, "%-8s %s\n", s.Action, s.File.Path)
		}
	}
	if dryRun {
		return nil
	}
	switch {
	case os.Geteuid() != 0:
		return errors.New("not root: run it with sudo")
	case !systemd.Available():
		return errors.New("systemd is not process 1 here, and the service is units of systemd's: start \"sallyport run\" from the host's own service manager")
	}
	if err := keeper.Missing(); err != nil {
		return fmt.Errorf("this host cannot be guarded: %w; \"sallyport doctor\" says more", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	m, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := target.Apply(steps); err != nil {
		return err
	}
	for _, argv := range [][]string{{"systemd-sysusers", "sallyport.conf"}, {"systemd-tmpfiles", "--create", "sallyport.conf"}} {
		if err := m.RunOnce(ctx, oneshots+argv[0]+".service", "sallyport install", argv...); err != nil {
			return err
		}
	}
	if err := m.DaemonReload(ctx); err != nil {
		return err
	}
	created := func(s install.Step) bool {
		return s.Action == install.Create && s.File.Source == "sallyport.service"
	}
	// Whoever disabled a unit finds it disabled after an upgrade.
	if slices.ContainsFunc(steps, created) {
		if err := m.Enable(ctx, install.Units()...); err != nil {
			return err
		}
		if err := m.DaemonReload(ctx); err != nil {
			return err
		}
	}
	return e.startUnits(ctx, m, slices.ContainsFunc(steps, replaced))
}

// replaced reports whether a step changes what runs.
func replaced(s install.Step) bool {
	return s.Action == install.Replace && (s.File.Source == "" || slices.Contains(install.Units(), s.File.Source))
}

// startUnits starts what is to run. After an upgrade the keeper is restarted, and
// the worker follows it; the lock never is.
func (e *env) startUnits(ctx context.Context, m *systemd.Manager, upgraded bool) error {
	for _, unit := range install.Units() {
		start := m.Start
		if upgraded && unit != install.Units()[0] {
			start = m.Restart
		}
		if err := start(ctx, unit); err != nil {
			return fmt.Errorf("%w; see journalctl -u %s", err, unit)
		}
		fmt.Fprintf(e.stdout, "%-8s %s\n", "started", unit)
	}
	return nil
}
