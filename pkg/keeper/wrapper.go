package keeper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"sallyport/pkg/confine"
	"sallyport/pkg/keeper/wire"
)

// LaunchStandalone is the wrapper's half of an `exec` without a daemon: it has
// a keeper started, waits until the gate stands, and becomes the command. It
// returns only on failure. The main goroutine must be locked to the main thread.
func LaunchStandalone(args *StandaloneArgs, verbose bool, say func(string)) error {
	pidfds, err := watchedProcesses()
	if err != nil {
		return err
	}
	defer closeFiles(pidfds)
	conn, err := StartStandalone(verbose)
	if err != nil {
		return err
	}
	if err := conn.Send(&wire.Message{ID: 1, Method: methodLaunch, Files: pidfds}, args); err != nil {
		return err
	}
	m, err := conn.Receive()
	if err != nil {
		return fmt.Errorf("the keeper ended without an answer (%w); -v shows its log", err)
	}
	defer m.CloseFiles()
	if m.Error != "" {
		return errors.New(m.Error)
	}
	var plan Plan
	if err := m.Decode(&plan); err != nil {
		return err
	}
	for _, n := range plan.Notes {
		say(n)
	}
	say(fmt.Sprintf("workload %s, audit in %s", plan.Name, plan.Audit))
	return confine.Exec(&plan.Spec)
}

// watchedProcesses opens pidfds of the processes whose end is the command's end:
// this one and, where sudo waits for it, sudo. Killing sudo must not leave the
// command behind.
func watchedProcesses() ([]*os.File, error) {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	files := []*os.File{os.NewFile(uintptr(self), "pidfd")}
	sudo, err := confine.SudoParents()
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	files = append(files, sudo...)
	return files, nil
}
