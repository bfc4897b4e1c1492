package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper"
	"sallyport/pkg/systemd"
	"sallyport/pkg/tag"
)

// stopTimeout bounds how long units may take to stop; systemd kills most of them
// after 90 s.
const stopTimeout = 2 * time.Minute

func (e *env) teardownCommand() *cobra.Command {
	var stop bool
	c := &cobra.Command{
		Use:   "teardown",
		Short: "Take the gate away: programs, table, cgroups, trust files, drop-ins",
		Long: `Removes everything that sallyport added to the host, what a killed exec left
included; where the daemon had a --config, give the same. It refuses while the
daemon or an exec runs, and while something runs in a tagged cgroup, which it
names; --stop ends the latter first. Audit files and the configuration stay.
What it was installed from stays too: "sallyport uninstall" takes that away.`,
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
			if err := e.teardown(c.Context(), conf, stop); err != nil {
				return fmt.Errorf("teardown: %w", err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&stop, "stop", false, "end what still runs in tagged cgroups first")
	return c
}

// teardown takes the gate away, and with it what tagging wrote and the root in
// the host's store: nobody can present a certificate of it any more.
func (e *env) teardown(ctx context.Context, conf *config.Config, stop bool) error {
	if stop && systemd.Available() {
		if err := stopSlice(ctx, conf); err != nil {
			return err
		}
	}
	err := keeper.Teardown(ctx, conf, stop)
	var busy *keeper.BusyError
	if errors.As(err, &busy) {
		e.name(busy)
	}
	if err != nil {
		return err
	}
	return errors.Join(untag(ctx, conf), e.untrust(ctx))
}

// stopSlice has systemd stop what it started in the slice: units that are only
// killed may be started again. The daemon must not run.
func stopSlice(ctx context.Context, conf *config.Config) error {
	lock, err := keeper.PlacesOf(conf).Service().Lock()
	if err != nil {
		return fmt.Errorf("%w: stop it first", err)
	}
	lock.Close()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	m, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Stop(ctx, conf.Slice); err != nil && !errors.Is(err, systemd.ErrNoUnit) {
		return err
	}
	return nil
}

// name says what runs.
func (e *env) name(busy *keeper.BusyError) {
	for _, p := range busy.Processes {
		fmt.Fprintf(e.stderr, "  %s\n", p)
	}
}

// untag removes the drop-ins and records of all tags. Drop-ins for another slice
// are another installation's.
func untag(ctx context.Context, conf *config.Config) error {
	dropIns, err := systemd.DropIns(systemd.SystemDir)
	if err != nil {
		return err
	}
	var errs []error
	removed := false
	for unit, path := range dropIns {
		content, err := os.ReadFile(path)
		if err == nil && !slices.Contains(strings.Split(string(content), "\n"), "Slice="+conf.Slice) {
			continue
		}
		if err == nil {
			_, err = systemd.RemoveDropIn(systemd.SystemDir, unit)
		}
		removed = removed || err == nil
		errs = append(errs, err)
	}
	errs = append(errs, tag.StoreOf(conf.StateDir).Remove())
	if err := os.Remove(conf.StateDir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err)
	}
	if removed && systemd.Available() {
		m, err := systemd.Connect(ctx)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		defer m.Close()
		errs = append(errs, m.DaemonReload(ctx))
	}
	return errors.Join(errs...)
}
