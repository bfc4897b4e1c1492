package foreign

import (
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// withOwnTable runs f on a thread whose descriptor table is its own and has nothing
// but keep and what Go's runtime needs. It returns once that table is separate: what
// the caller then does with these numbers is another table's. f goes on beside it,
// and done is called when f has ended. The thread ends with its table.
//
// What f puts into the table no child of ours inherits, and nobody waits for who
// cannot close it.
func withOwnTable(keep []int, f func(error), done func()) error {
	separate := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread does not end before the process, and its table is what
			// others see of us. While it is kept here, another runs f.
			separate <- withOwnTable(keep, f, done)
			runtime.UnlockOSThread()
			return
		}
		err := unix.Unshare(unix.CLONE_FILES)
		separate <- err
		if err != nil {
			done()
			runtime.UnlockOSThread()
			return
		}
		f(keepOnly(keep))
		done()
	}()
	return <-separate
}

// keepOnly closes what is in the table of this thread but for keep. The runtime may
// poll on any thread, so its own descriptors stay.
func keepOnly(keep []int) error {
	const dir = "/proc/thread-self/fd/"
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, one := range all {
		fd, err := strconv.Atoi(one.Name())
		if err != nil || slices.Contains(keep, fd) {
			continue
		}
		if target, err := os.Readlink(dir + one.Name()); err == nil && (target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]") {
			continue
		}
		_ = unix.Close(fd) // that of the directory is closed already
	}
	return nil
}
