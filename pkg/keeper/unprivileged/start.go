// Package unprivileged starts processes that can do nothing but use what they
// are given: the worker, by the keeper or by the main process of its service.
package unprivileged

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"sallyport/pkg/confine"
)

// lastCapability bounds the search for capabilities that the kernel knows; the
// kernel answers EINVAL beyond its last one (40 on Linux 6.1).
const lastCapability = 63

// timerSlack is by how much the kernel may let timers of the worker's threads run
// late to fire several at once, in ns (default 50 µs). Go's runtime has a thread
// that sleeps for 20 µs at a time while there is work, to see whether a system
// call takes long: 6 to 9 % of the worker's processor time. Nothing that the
// worker waits for is counted in less than milliseconds.
const timerSlack = 1_000_000

// Start starts a process that can never have a capability and is in
// a sandbox (confine.Sandbox) from its first instruction. Its standard output and
// error must be given: a file for them could not be opened any more.
//
// All of this belongs to a thread, and a fork inherits it. So it is done on a
// thread that does nothing else than this one fork and ends with its goroutine.
func Start(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := renounce()
		if err == nil {
			err = confine.Sandbox()
		}
		if err == nil {
			err = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0)
		}
		if err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// renounce empties the calling thread's bounding set. What it holds already
// stays until execve, so that the child can still change its uid.
func renounce() error {
	for c := uintptr(0); c <= lastCapability; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			break // beyond the kernel's last capability
		}
		if has == 0 {
			continue // whoever starts us as a service took it already, and the right to take it too
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("bounding set, capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}
