package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper"
)

func (e *env) runCommand() *cobra.Command {
	var part string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Runs the daemon until SIGTERM. It says "ready" once programs, guard, listeners
and the self-probe are as they must be. The configuration is applied again
when its files change, and at SIGHUP.
Without a configuration file it enforces the defaults: nothing is allowed.
When it stops the gate stays shut: programs in tagged cgroups reach nothing
until it runs again, or until "sallyport teardown" takes the gate away.
Under systemd each part is a unit of its own: --part keeper (root, holds the
listeners), --part worker (no privilege, serves) and --part lock (shuts the
gate at boot and ends).`,
		Example: "  sudo sallyport run --config /etc/sallyport/sallyport.yaml",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := configPath(c)
			if err == nil && path != "" {
				path, err = filepath.Abs(path)
			}
			if err != nil && part != partLock && part != partWorker {
				return fmt.Errorf("config: %w", err)
			}
			return e.runPart(c, part, path)
		},
	}
	hideLocks(c, &e.locks)
	c.Flags().StringVar(&part, "part", "", "run one part only: keeper, worker or lock")
	return c
}

// runDaemon is `run` without a part: keeper and worker, a child of its.
func (e *env) runDaemon(ctx context.Context, path string) error {
	if os.Geteuid() != 0 {
		return errors.New("run: not root: the keeper loads BPF programs and nftables rules; run it with sudo")
	}
	return e.keep(ctx, path, keeper.Options{}, e.speakForDaemon)
}

// speakForDaemon says when the daemon is ready, and has it reload and end.
func (e *env) speakForDaemon(ctx context.Context, k *kept) error {
	ready := k.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			(&notifier{env: e, log: k.log}).ready()
		case <-k.reload:
			// Its errors are in the log, the status and the audit.
			_ = k.Reload()
		case err := <-k.ended:
			if errors.Is(err, keeper.ErrMadeAgain) {
				k.Close()
				return startAnew(err)
			}
			if err != nil {
				return fmt.Errorf("run: %w", err)
			}
			return nil
		case <-ctx.Done():
			daemon.SdNotify(false, daemon.SdNotifyStopping)
			return errorOrNil(<-k.ended, ctx)
		}
	}
}

// startAnew executes this process's file again, with its arguments: as the same
// process for whoever started it. Nothing of what is open stays.
func startAnew(cause error) error {
	err := unix.Exec("/proc/self/exe", os.Args, os.Environ())
	return fmt.Errorf("run: %w: %w", cause, os.NewSyscallError("execve", err))
}

// errorOrNil forgets the error that the asked-for end brought.
func errorOrNil(err error, ctx context.Context) error {
	if err == nil || errors.Is(err, ctx.Err()) {
		return nil
	}
	return fmt.Errorf("run: %w", err)
}
