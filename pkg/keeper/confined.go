package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"sallyport/pkg/confine"
	"sallyport/pkg/keeper/wire"
)

// RunConfined runs a command with everything that a command of `exec` gets, but
// in the caller's own cgroup, so that nothing is captured: doctor asks with it
// what a runtime trusts. It gives what the command wrote.
func RunConfined(ctx context.Context, spec *confine.Spec) (string, error) {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return "", err
	}
	defer theirs.Close()
	conn, err := wire.NewConn(ours)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	cmd := exec.CommandContext(ctx, self, Internal, InternalStart, "3")
	cmd.Args[0] = "sallyport"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	if err := conn.Send(&wire.Message{Method: methodLaunch}, &Plan{Spec: *spec}); err != nil {
		return "", errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	theirs.Close() // then the end of the connection means that the command runs
	if m, err := conn.Receive(); err == nil {
		m.CloseFiles()
		cmd.Wait()
		return "", errors.New(m.Error)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), err
}
