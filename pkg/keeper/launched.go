package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/pkg/confine"
	"sallyport/pkg/keeper/wire"
)

// RunLaunched is the process that becomes a command of the daemon's. It has the
// caller's descriptors at their numbers already and gets its plan on f. The main
// goroutine must be locked to the main thread.
func RunLaunched(f *os.File, stderr io.Writer) int {
	unix.CloseOnExec(int(f.Fd()))
	conn, err := wire.NewConn(f)
	if err != nil {
		fmt.Fprintf(stderr, "sallyport: %v\n", err)
		return confine.ExitFailed
	}
	err = becomeCommand(conn)
	code := confine.ExitCode(err)
	conn.Send(&wire.Message{Method: methodFailed, Error: err.Error()}, ended{Code: code})
	return code
}

func becomeCommand(conn *wire.Conn) error {
	m, err := conn.Receive()
	if err != nil {
		return err
	}
	m.CloseFiles()
	if m.Method != methodLaunch {
		return errors.New("keeper: not a launch")
	}
	var plan Plan
	if err := m.Decode(&plan); err != nil {
		return err
	}
	if l := plan.Files; l != nil {
		// After our own start, which raised the soft limit, and explicitly: else
		// execve gives back what this process began with (package syscall,
		// origRlimitNofile).
		if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: l.Cur, Max: l.Max}); err != nil {
			return fmt.Errorf("limit of open files: %w", err)
		}
	}
	if l := plan.Stack; l != nil {
		// The keeper may have set it too early: the kernel ends an execve by giving
		// the limit back that was there when it began, after it has closed what is
		// closed on it (fs/exec.c, finalize_exec), which is what the keeper waits for.
		if err := applyLimit(0, unix.RLIMIT_STACK, *l); err != nil {
			return err
		}
	}
	return confine.Exec(&plan.Spec)
}

// userName names a uid for the audit and for `match.user`.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

// reader and writer keep a nil file from becoming an interface that is not nil.
func reader(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

func writer(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}
