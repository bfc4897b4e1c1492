package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A probeRun makes the connections of a self-probe and gives the pid that did and
// what it printed: two lines, or two for each of some network namespaces inside
// which they are to be made. At the end of ctx it ends what it started.
type probeRun func(ctx context.Context, namespaces []*os.File) (pid int, out string, err error)

// probeWaitDelay is how long the probing process' output is waited for once it was
// killed, probeEnds how long after the end of its time a run may take to come back.
const (
	probeWaitDelay = time.Second
	probeEnds      = 2 * probeWaitDelay
)

// errProbeStuck is of the self-probe that does not come back and of all behind it.
var errProbeStuck = errors.New("the probe process was neither started nor ended in time")

// A probeTurn is had by one run at a time. A start can last as long as somebody
// else wants: exec(2) closes what the child inherited, and closing a FUSE file
// waits for its server; the next fork waits for that one (syscall.ForkLock). Then
// nothing is proven, which must be told and not waited for.
type probeTurn struct{ taken atomic.Bool }

// take runs a probe and closes namespaces when it has come back, not before: the
// child would inherit whatever has their numbers by then. It returns errProbeStuck
// if that takes longer than ctx and probeEnds, and for each further one meanwhile:
// there is never more than one goroutine, and no late process whose refused
// connection counts for the next.
func (t *probeTurn) take(ctx context.Context, run probeRun, namespaces []*os.File) (pid int, out string, err error) {
	if !t.taken.CompareAndSwap(false, true) {
		closeFiles(namespaces)
		return 0, "", errProbeStuck
	}
	back := make(chan struct{})
	var late struct {
		pid int
		out string
		err error
	}
	go func() {
		late.pid, late.out, late.err = run(ctx, namespaces)
		closeFiles(namespaces)
		t.taken.Store(false)
		close(back)
	}()
	select {
	case <-back:
		return late.pid, late.out, late.err
	case <-ctx.Done():
	}
	timer := time.NewTimer(probeEnds)
	defer timer.Stop()
	select {
	case <-back:
		return late.pid, late.out, late.err
	case <-timer.C:
		return 0, "", errProbeStuck
	}
}

// spawn is the probeRun: it runs the probing process inside the probe's cgroup.
func (p *prober) spawn(ctx context.Context, namespaces []*os.File) (int, string, error) {
	dir, err := p.cgroup.Open()
	if err != nil {
		return 0, "", err
	}
	defer dir.Close()
	cmd := exec.CommandContext(ctx, self, Internal, InternalProbe, strconv.Itoa(len(namespaces)), p.to.captured.String(), p.to.blocked.String())
	cmd.ExtraFiles = namespaces
	cmd.Args[0] = "sallyport"
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.WaitDelay = probeWaitDelay
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Setsid: true}
	if err := cmd.Run(); err != nil {
		return 0, "", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return cmd.Process.Pid, out.String(), nil
}
