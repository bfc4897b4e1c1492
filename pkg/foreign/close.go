package foreign

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// closePatience is how long the Sweeper waits for a close.
	closePatience = 100 * time.Millisecond
	// mostAside bounds the calls for a share that have not come back. Beyond, nothing
	// is taken from its queues any more.
	mostAside = 64
)

// closeTaken closes a descriptor that was taken. While one is held its process may
// close its own; then ours is the last, and closing waits as long as the process
// chose: up to 18 h with SO_LINGER, also of a socket in the queue of a unix socket;
// until a FUSE server of the workload's own answers. That wait must not be the
// Sweeper's: beyond closePatience it goes on in the background.
func (sh *share) closeTaken(fd int) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && (domain == unix.AF_INET || domain == unix.AF_INET6) {
		lingers, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
		if err == nil && (lingers.Onoff == 0 || lingers.Linger == 0) {
			_ = unix.Close(fd)
			return
		}
	}
	sh.beside(closePatience, func() { _ = unix.Close(fd) })
}

// beside runs f and waits for it at most for patience. It reports whether f has
// ended.
func (sh *share) beside(patience time.Duration, f func()) bool {
	done := make(chan struct{})
	sh.aside.Add(1)
	go func() {
		f()
		sh.aside.Add(-1)
		close(done)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
