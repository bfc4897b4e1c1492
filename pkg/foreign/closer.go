package foreign

import (
	"time"

	"golang.org/x/sys/unix"
)

// A closer closes descriptors that were taken. While one is held its process may
// close its own; then ours is the last, and with SO_LINGER closing waits as long as
// the process chose, up to 18 h. That wait must not be the Sweeper's.
type closer struct{}

// closerPatience is how long a close may take.
const closerPatience = 100 * time.Millisecond

// close closes a descriptor, at most after closerPatience in the background.
func (c *closer) close(fd int) {
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
	timer := time.NewTimer(closerPatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
