package confine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// execve keeps the signal mask and which signals are ignored, and callers rely
// on both (nohup, `trap "" PIPE`). The Go runtime changes them before any Go
// code runs: it unblocks the signals that end a program and replaces SIG_IGN
// for all but SIGHUP, SIGINT and the stop signals by its own handler. What was
// there is known only to who asked first, which is _rt0_sallyport: link the
// program with `-ldflags "-E _rt0_sallyport"`. Without it the command gets
// what Go has kept.
//
// The runtime also raises the soft limit of open files to the hard one.
// syscall.Exec gives it back; to tell it to somebody else it has to be known.
//
// These five are written once, before the runtime begins, and never after.
var (
	startFiles   [2]uint64 // struct rlimit64: soft, hard
	startMask    uint64
	startIgnored uint64
	//lint:ignore U1000 the entry in assembly reads sigactions into it
	startAction [4]uint64 // struct sigaction: handler, flags, restorer, mask
	startKnown  bool
)

// Signals are the parts of a process's signal state that execve keeps. Bit n-1
// is signal n, as in /proc/PID/status.
type Signals struct {
	Blocked, Ignored uint64
}

// StartSignals is what this process was started with, false where the program
// was linked without its entry (see the comment in this file).
func StartSignals() (Signals, bool) {
	return Signals{Blocked: startMask, Ignored: startIgnored}, startKnown
}

// StartFiles is the soft limit of open files that this process was started
// with, false where the program was linked without its entry.
func StartFiles() (uint64, bool) { return startFiles[0], startKnown }

// lastSignal is _NSIG.
const lastSignal = 64

// apply sets the state of the calling thread and process, for the execve that
// follows. Handlers of the runtime become SIG_DFL there by themselves.
func (s Signals) apply() error {
	for n := 1; n <= lastSignal; n++ {
		var want [4]uint64 // SIG_DFL
		if s.Ignored&(1<<(n-1)) != 0 {
			want[0] = 1 // SIG_IGN
		}
		// SIGKILL and SIGSTOP cannot be set, and cannot have been.
		if n == int(unix.SIGKILL) || n == int(unix.SIGSTOP) {
			continue
		}
		// The default of a signal for which the runtime has a handler comes
		// with execve; until then its handler is needed (preemption).
		if want[0] == 0 {
			var now [4]uint64
			if err := sigaction(n, nil, &now); err != nil {
				return err
			}
			if now[0] != 1 {
				continue
			}
		}
		if err := sigaction(n, &want, nil); err != nil {
			return err
		}
	}
	const setMask = 2 // SIG_SETMASK
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&s.Blocked)), 0, 8, 0, 0)
	if e != 0 {
		return failed("signals", "mask", e)
	}
	return nil
}

func sigaction(n int, set, old *[4]uint64) error {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if e != 0 {
		return failed("signals", unix.SignalName(unix.Signal(n)), e)
	}
	return nil
}
