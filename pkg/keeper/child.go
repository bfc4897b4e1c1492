package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/wire"
)

// A launched is a command that the daemon started.
type launched struct {
	cmd  *exec.Cmd
	conn *wire.Conn
	// waited is closed once the command has ended and was waited for.
	waited chan struct{}
	end    *ending
}

// An ending keeps signals from a process that has the number of one that was
// waited for.
type ending struct {
	mu    sync.Mutex
	ended bool
}

// wait returns when the process has ended and no signal can reach its number any
// more; only then it may be waited for.
func (e *ending) wait(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// kill sends a signal to the process or, with a negative number, to its group.
func (e *ending) kill(pid int, s syscall.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		unix.Kill(pid, s)
	}
}

// startLaunched starts the process that becomes the command, inside its cgroup
// from its first instruction.
func startLaunched(c *command, inherited []*os.File, who *caller) (*launched, error) {
	dir, err := c.cgroup.Open()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	ours, theirs, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(self, Internal, InternalStart, strconv.Itoa(len(inherited)))
	cmd.Args[0] = "sallyport"
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = reader(inherited[0]), writer(inherited[1]), writer(inherited[2])
	cmd.ExtraFiles = append(inherited[3:len(inherited):len(inherited)], theirs)
	// A command must not outlive a keeper that was killed: its wrapper has ended
	// then, and whoever started that believes that the command has.
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Setsid: true, Pdeathsig: unix.SIGKILL}
	waited, end := make(chan struct{}), &ending{}
	if err := startAndWait(cmd, waited, end); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start command: %w", err)
	}
	conn, err := wire.NewConn(ours)
	if err == nil {
		if err = applyLimits(cmd.Process.Pid, who.limits); err == nil {
			err = conn.Send(&wire.Message{Method: methodLaunch}, &c.plan)
		}
		if err != nil {
			conn.Close()
		}
	}
	if err != nil {
		cmd.Process.Kill()
		<-waited
		return nil, err
	}
	return &launched{cmd: cmd, conn: conn, waited: waited, end: end}, nil
}

// startAndWait starts a process on a thread that lives until the process has
// ended, and closes waited then: a parent-death signal is sent when the thread
// ends that forked, whoever else of this process lives on.
func startAndWait(cmd *exec.Cmd, waited chan<- struct{}, end *ending) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		defer close(waited)
		end.wait(cmd.Process.Pid)
		cmd.Wait() // how it ended is in cmd.ProcessState
	}()
	return <-started
}

// stay passes signals on until the command ends, and tells how it did. It ends
// the command when the caller goes or ctx ends.
func (l *launched) stay(ctx context.Context, conn *wire.Conn, c *command) error {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			m, err := conn.Receive()
			if err != nil {
				return
			}
			m.CloseFiles()
			var s signalled
			if m.Method == methodSignal && m.Decode(&s) == nil {
				l.signal(syscall.Signal(s.Signal))
			}
		}
	}()
	stopping := false
	select {
	case <-l.waited:
	case <-gone:
	case <-ctx.Done():
		stopping = true
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.cgroup.Kill(end); err != nil {
		return err
	}
	<-l.waited
	out := ended{Code: l.cmd.ProcessState.ExitCode()}
	if ws, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		out = ended{Signal: int(ws.Signal()), Stopped: stopping && ws.Signal() == unix.SIGKILL}
	}
	err := conn.Send(&wire.Message{Method: methodEnded}, out)
	conn.Close()
	<-gone
	return err
}

// signal passes one signal on. Those that a terminal sends go to the command's
// whole process group, as the terminal would; others to the command alone.
func (l *launched) signal(s syscall.Signal) {
	pid := l.cmd.Process.Pid
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGWINCH, unix.SIGCONT:
		pid = -pid
	case unix.SIGTSTP:
		// The command's group has no parent in its session, and such a group
		// ignores SIGTSTP (POSIX, orphaned process group).
		pid, s = -pid, unix.SIGSTOP
	}
	l.end.kill(pid, s)
}
