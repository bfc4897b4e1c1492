package main

import (
	"errors"
	"fmt"
	"os"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper"
)

// executeByDaemon has a running daemon start the command. It reports false where
// there is no daemon and none is installed, so that a gate of its own is right.
func (e *env) executeByDaemon(conf *config.Config, f *execFlags, args []string, say func(string)) (bool, error) {
	if f.user != "" {
		return false, e.noDaemonFor(conf, "--user needs --standalone: the daemon starts commands as the caller")
	}
	dir, err := os.Getwd()
	if err != nil {
		return true, fmt.Errorf("exec: working directory: %w", err)
	}
	code, err := keeper.LaunchRemote(conf.RuntimeDir, &keeper.RemoteLaunch{
		Argv: args, Env: os.Environ(), Dir: dir, Home: e.getenv("HOME"),
		Workload: f.workload, KeepSockets: f.keepSockets,
	}, say)
	var refused *keeper.NotStartedError
	switch {
	case err == nil && code == 0:
		return true, nil
	case err == nil:
		return true, exitError(code)
	case errors.As(err, &refused):
		fmt.Fprintf(e.stderr, "sallyport: exec: %v\n", err)
		return true, exitError(refused.Code)
	case errors.Is(err, keeper.ErrNoDaemon) && errors.Is(err, os.ErrPermission):
		return true, fmt.Errorf("exec: the daemon runs, but you may not use it: join group %s", conf.Admin.Group)
	case errors.Is(err, keeper.ErrNoDaemon):
		return false, e.noDaemonFor(conf, "start it (systemctl start sallyport) or use --standalone")
	default:
		return true, fmt.Errorf("exec: %w", err)
	}
}

// noDaemonFor is the error where a service is installed and does not answer: a
// gate of its own would then hide that the service is down.
func (e *env) noDaemonFor(conf *config.Config, remedy string) error {
	if !keeper.ServiceInstalled() {
		return nil
	}
	return fmt.Errorf("exec: the sallyport service is installed but does not answer on %s: %s", keeper.ExecSocket(conf.RuntimeDir), remedy)
}
