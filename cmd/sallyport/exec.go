package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/confine"
	"sallyport/pkg/keeper"
)

// execFlags are the options of exec.
type execFlags struct {
	workload, user                   string
	keepSockets, standalone, verbose bool
	locks                            keeper.Locks
}

func (e *env) execCommand() *cobra.Command {
	var f execFlags
	c := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run one command behind the gate",
		Long: `Runs a command so that everything it sends out goes through sallyport. Standard
input, output, error, terminal, signals and exit status are the command's own.

With the daemon running, the daemon starts the command. Without one, a gate is
made for the life of the command; that needs root. Without a configuration file
nothing is refused but what has no decision, and everything is recorded in
./sallyport-audit.PID.jsonl.`,
		Example: `  sudo sallyport exec -- curl https://example.com
  sudo sallyport exec --workload github -- npx -y @modelcontextprotocol/server-github
  sudo sallyport exec --config policy.yaml -v -- python3 server.py`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("exec: no command: put it after --, as in sallyport exec -- curl https://example.com")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return e.execute(c, &f, args) },
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&f.workload, "workload", "", "`name` of the workload in rules and audit (default: the command's)")
	c.Flags().StringVar(&f.user, "user", "", "run the command as this `user`; root only")
	c.Flags().BoolVar(&f.keepSockets, "keep-sockets", false, "leave the sockets of resolvers, buses and container engines visible; audited")
	c.Flags().BoolVar(&f.standalone, "standalone", false, "make a gate of its own even where a service is installed")
	hideLocks(c, &f.locks)
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr what sallyport does")
	return c
}

// execute becomes the command, or fails with the exit status that env(1) would
// give.
func (e *env) execute(c *cobra.Command, f *execFlags, args []string) error {
	path, err := configPath(c)
	if err != nil {
		return err
	}
	if path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return fmt.Errorf("config: %w", err)
		}
	}
	conf, err := loadConfig(c, config.Observe)
	if err != nil {
		return err
	}
	if err := confine.CheckDescriptors(); err != nil {
		return fmt.Errorf("exec: %w; close it before starting sallyport", err)
	}
	say := func(string) {}
	if f.verbose {
		say = func(s string) { fmt.Fprintln(e.stderr, "sallyport:", s) }
	}
	if !f.standalone {
		done, err := e.executeByDaemon(conf, f, args, say)
		if done || err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("exec: no daemon runs, and making a gate needs root: run it with sudo")
	}
	launch, err := e.launch(f, args)
	if err != nil {
		return err
	}
	err = keeper.LaunchStandalone(&keeper.StandaloneArgs{
		Launch:     *launch,
		ConfigPath: path,
		AuditDir:   launch.Dir,
		PID:        os.Getpid(),
		Version:    version,
		Locks:      f.locks,
	}, f.verbose, say)
	return e.notStarted(err)
}

// launch describes the command with the identity of the calling user.
func (e *env) launch(f *execFlags, args []string) (*keeper.Launch, error) {
	host, err := confine.ThisHost()
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	caller, err := confine.CallingUser(host, f.user)
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("exec: working directory: %w", err)
	}
	return &keeper.Launch{
		Argv: args, Env: caller.Environ(os.Environ()), Dir: dir, Workload: f.workload,
		UID: caller.UID, GID: caller.GID, Groups: caller.Groups, User: caller.Name, Home: caller.Home,
		KeepSockets: f.keepSockets,
	}, nil
}

// notStarted reports why there is no command. The status is the one that a
// shell or env(1) gives.
func (e *env) notStarted(err error) error {
	fmt.Fprintf(e.stderr, "sallyport: exec: %v\n", err)
	return exitError(confine.ExitCode(err))
}
