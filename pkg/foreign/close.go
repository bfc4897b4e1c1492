package foreign

import (
	"time"

	"golang.org/x/sys/unix"
)

// closePatience is how long the Sweeper waits for a close.
const closePatience = 100 * time.Millisecond

// closeTaken closes a descriptor that was taken. While one is held its process may
// close its own; then ours is the last, and with SO_LINGER closing waits as long as
// the process chose, up to 18 h. That wait must not be the Sweeper's: beyond
// closePatience it goes on in the background.
func closeTaken(fd int) {
	lingers, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
	if err == nil && (lingers.Onoff == 0 || lingers.Linger == 0) {
		_ = unix.Close(fd)
		return
	}
	done := make(chan struct{})
	go func() {
		_ = unix.Close(fd)
		close(done)
	}()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
