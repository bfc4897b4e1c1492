// Package confine turns the calling process into the command of `exec`: it
// takes everything away by which a program could get around the gate, and then
// calls execve(2) in place, so that process id, terminal, signals and exit
// status are the command's own.
package confine

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ErrNotSupported is wrapped by errors that name a missing part of the kernel.
// The command is not started then: a command without one of its limits would
// be a way out.
var ErrNotSupported = errors.New("not supported")

// ErrDescriptor is wrapped by errors that name an inherited descriptor with
// which the command could reach beyond its limits.
var ErrDescriptor = errors.New("inherited descriptor refused")

// A Spec says what to start and as whom. The zero UID and GID are root.
type Spec struct {
	// Argv is the command with its name first, as typed.
	Argv []string
	// Path is the file to execute; "" looks Argv[0] up in the PATH of Env as
	// the target user, as execvp(3) does.
	Path string
	// Env is the whole environment of the command.
	Env []string
	// Dir is the directory to start in, entered as the target user; "" keeps
	// the present one.
	Dir string
	// UID, GID and Groups become real, effective and saved ids and the whole
	// list of supplementary groups.
	UID, GID int
	Groups   []int
	// Umask is set if it is not nil.
	Umask *int
	// Signals are what the command ignores and blocks; nil is what this
	// process was started with, as far as it is known (see StartSignals).
	Signals *Signals

	// Trust are directories and files that are mounted read-only, hiding what is
	// at their targets. The target must exist or lie below an entry of Own.
	Trust []Mount
	// Hide is what the command must not reach (see HiddenSockets).
	Hide []Hidden
	// Own are sallyport's directories, hidden also with KeepSockets.
	Own []string
	// KeepSockets leaves Hide visible and abstract unix sockets reachable.
	KeepSockets bool
}

// A Hidden is the path of a socket, or of a directory that holds sockets. What
// does not exist when the command starts is passed over.
type Hidden struct {
	Path string
	// KeepFiles leaves the regular files of a directory visible, as they are
	// when the command starts.
	KeepFiles bool
}

// A Mount shows the directory or file Source at Target, both absolute and of
// one kind.
type Mount struct{ Source, Target string }

// An Error says which step failed. The process is then partly confined: it can
// only report and exit.
type Error struct {
	// Op is the step, for example "mount namespace".
	Op string
	// Name is the file, descriptor or user it was about, "" if none.
	Name string
	Err  error
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Op, e.Name, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Exit codes of env(1) and the shells for a command that could not start.
const (
	ExitFailed        = 1
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// opExec is the Op of errors about the command itself.
const opExec = "start the command"

// notInPath is fs.ErrNotExist in the words of a shell.
type notInPath struct{}

func (notInPath) Error() string        { return "not found in PATH" }
func (notInPath) Is(target error) bool { return target == fs.ErrNotExist }

// ExitCode is the status to exit with after err: ExitNotFound and
// ExitNotExecutable where only the command was at fault, else ExitFailed.
func ExitCode(err error) int {
	var e *Error
	if !errors.As(err, &e) || e.Op != opExec {
		return ExitFailed
	}
	if errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, unix.ENOTDIR) {
		return ExitNotFound
	}
	return ExitNotExecutable
}

func failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Name: name, Err: err}
}
