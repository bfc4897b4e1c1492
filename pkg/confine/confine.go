package confine

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Exec confines the calling process and executes the command in its place. It
// returns only on failure, with an *Error, and the process must then exit (see
// ExitCode). The process needs CAP_SYS_ADMIN for the mount namespace, and
// CAP_SETUID, CAP_SETGID, CAP_SETPCAP for the rest; it must be in its tagged
// cgroup already.
//
// Call it from the main goroutine, with runtime.LockOSThread as the first
// statement of main: everything is done on the calling thread, which execve
// makes the only one, and the parent-death signal is a property of the thread
// that was there first.
func Exec(s *Spec) error {
	runtime.LockOSThread() // and never unlocked: nobody else may run on this thread
	if len(s.Argv) == 0 {
		return failed(opExec, "", errors.New("no command"))
	}
	if err := Supported(); err != nil {
		return failed("kernel", "", err)
	}
	inherited, err := inheritedDescriptors()
	if err != nil {
		return err
	}
	deathSignal, err := parentDeathSignal()
	if err != nil {
		return err
	}

	// Mounts first: they need the capabilities, and Landlock forbids any
	// change to them, also from a user namespace that the command makes.
	m, err := newMounts()
	if err != nil {
		return err
	}
	// The command must be able to enter what is made for it, whatever umask its
	// caller has.
	umask := unix.Umask(0)
	if err := m.apply(s); err != nil {
		return err
	}
	if err := m.reopen(inherited.directories); err != nil {
		return err
	}
	unix.Umask(umask)

	if err := noNewPrivileges(); err != nil {
		return err
	}
	if err := dropBounding(); err != nil {
		return err
	}
	if err := become(s.UID, s.GID, s.Groups); err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	// Changing ids clears it.
	if err := setParentDeathSignal(deathSignal); err != nil {
		return err
	}
	if s.Umask != nil {
		unix.Umask(*s.Umask)
	}
	if s.Dir != "" {
		if err := unix.Chdir(s.Dir); err != nil {
			return failed("enter directory", s.Dir, err)
		}
	}
	if err := enterLandlock(!s.KeepSockets); err != nil {
		return err
	}
	// Last, as it needs no privilege any more and everything above would have
	// to pass it.
	if err := installFilter(); err != nil {
		return err
	}
	signals, known := StartSignals()
	if s.Signals != nil {
		signals, known = *s.Signals, true
	}
	if known {
		if err := signals.apply(); err != nil {
			return err
		}
	}
	return execute(s)
}

// Supported says whether this kernel has everything that Exec needs. Errors
// name what is missing and wrap ErrNotSupported.
func Supported() error {
	if err := landlockSupported(); err != nil {
		return err
	}
	if err := filterSupported(); err != nil {
		return err
	}
	return mountsSupported()
}

// proc is the directory of the calling thread: a thread that unshared its
// mounts sees its own there.
const proc = "/proc/thread-self/"

func parentDeathSignal() (int, error) {
	if unix.Gettid() != os.Getpid() {
		return 0, nil
	}
	var signal int32
	if err := prctlPointer(unix.PR_GET_PDEATHSIG, &signal); err != nil {
		return 0, failed("parent-death signal", "", err)
	}
	return int(signal), nil
}

func setParentDeathSignal(signal int) error {
	if signal == 0 {
		return nil
	}
	return failed("parent-death signal", "", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(signal), 0, 0, 0))
}
