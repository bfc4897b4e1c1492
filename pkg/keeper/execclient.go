package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/pkg/confine"
	"sallyport/pkg/keeper/wire"
)

// ErrNoDaemon says that nobody answers on the exec socket.
var ErrNoDaemon = errors.New("no daemon")

// ErrDaemonEnded says that the command was ended because the daemon, whose child it
// is, has ended or was restarted: nobody else could tell how the command ends, nor
// take away what was made for it.
var ErrDaemonEnded = errors.New("the daemon ended or was restarted, and the command with it: start the command again; with --standalone it has a gate of its own, which no restart ends")

// A NotStartedError says why the daemon started nothing, and the status to exit
// with.
type NotStartedError struct {
	Text string
	Code int
}

func (e *NotStartedError) Error() string { return e.Text }

// LaunchRemote has the daemon start a command with this process's descriptors,
// and stays in the command's place: signals go to the command, its end is ours.
// It returns the exit code, or does not return where a signal ended the command.
func LaunchRemote(runtimeDir string, args *RemoteLaunch, say func(string)) (int, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: ExecSocket(runtimeDir), Net: "unixpacket"})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoDaemon, err)
	}
	defer c.Close()
	conn := wire.FromUnix(c)
	if _, err := expect(conn, methodHello); err != nil {
		return 0, err
	}
	files, err := confine.Inherited()
	if err != nil {
		return 0, err
	}
	// These are our 0, 1 and 2: nobody may close them because nobody uses them.
	defer runtime.KeepAlive(files)
	args.Numbers = make([]int, len(files))
	for i, f := range files {
		args.Numbers[i] = int(f.Fd())
	}
	args.Files, _ = confine.StartFiles()
	if err := conn.Send(&wire.Message{Method: methodLaunch, Files: files}, args); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	m, err := expect(conn, methodStarted)
	if errors.Is(err, io.EOF) {
		// The command may have begun already.
		return 0, fmt.Errorf("%w: %w", ErrDaemonEnded, err)
	}
	if err != nil {
		return 0, err
	}
	var s started
	if err := m.Decode(&s); err != nil {
		return 0, err
	}
	say("workload " + s.Name + ", started by the daemon")
	if err := letGo(files); err != nil {
		return 0, err
	}
	go forward(conn, signals)
	if m, err = expect(conn, methodEnded); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrDaemonEnded, err)
	}
	var end ended
	if err := m.Decode(&end); err != nil {
		return 0, err
	}
	if end.Stopped {
		return 0, ErrDaemonEnded
	}
	if end.Signal != 0 {
		dieBy(syscall.Signal(end.Signal))
	}
	return end.Code, nil
}

// stderrFD is the number of standard error.
const stderrFD = 2

// letGo gives up this process's own copies of what the command got: a pipe has
// an end for its reader when the command closes it, not when we do. Standard
// error stays, for what has to be said if the daemon ends.
func letGo(files []*os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, f := range files {
		n := int(f.Fd())
		switch {
		case n == stderrFD:
		case n < stderrFD:
			if err := unix.Dup3(int(null.Fd()), n, 0); err != nil {
				return err
			}
		default:
			f.Close()
		}
	}
	return nil
}

// expect waits for one message of the daemon.
func expect(conn *wire.Conn, method string) (*wire.Message, error) {
	m, err := conn.Receive()
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	m.CloseFiles()
	switch m.Method {
	case method:
		return m, nil
	case methodFailed:
		return nil, &NotStartedError{Text: m.Error, Code: failureCode(m)}
	default:
		return nil, fmt.Errorf("daemon: unexpected %q", m.Method)
	}
}

// forwarded are the signals that are the command's: all but those that cannot
// be caught, those that tell of our own faults, and Go's own.
func forwarded() []os.Signal {
	var all []os.Signal
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGPIPE, 32, 33:
			continue
		}
		all = append(all, s)
	}
	return all
}

// forward passes signals on. A stop is followed by our own, so that the shell
// sees a stopped job.
func forward(conn *wire.Conn, signals <-chan os.Signal) {
	for s := range signals {
		n := s.(syscall.Signal)
		conn.Send(&wire.Message{Method: methodSignal}, signalled{Signal: int(n)})
		if n == unix.SIGTSTP || n == unix.SIGTTIN || n == unix.SIGTTOU {
			unix.Kill(os.Getpid(), unix.SIGSTOP)
		}
	}
}

// dieBy ends this process by the signal that ended the command, so that a shell
// reports the same. A core dump of ours would tell nothing.
func dieBy(s syscall.Signal) {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	signal.Reset(s)
	unix.Kill(os.Getpid(), s)
	// A signal that does not end us (blocked, ignored): as shells count it.
	os.Exit(128 + int(s))
}

// ServiceInstalled reports whether a unit of the service is installed, which
// makes a daemon that does not answer an error.
func ServiceInstalled() bool {
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(dir, "sallyport.service")); err == nil {
			return true
		}
	}
	return false
}
