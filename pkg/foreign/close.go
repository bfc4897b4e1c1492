package foreign

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// closePatience is how long the Sweeper waits for a close.
	closePatience = 100 * time.Millisecond
	// mostAside bounds the calls of one kind for a share that have not come back.
	mostAside = 8
)

// closeTaken closes sockets that were taken. While one is held its process may
// close its own; then ours is the last, and closing waits as long as the process
// chose, up to 18 h with SO_LINGER. That wait must not be the Sweeper's: beyond
// closePatience, for all together, it goes on in the background.
func (sh *share) closeTaken(fds ...int) {
	var slow []int
	for _, fd := range fds {
		if !atOnce(fd) {
			slow = append(slow, fd)
			continue
		}
		_ = unix.Close(fd)
	}
	if len(slow) > 0 {
		sh.closes.run(closePatience, func() { closeAll(slow) })
	}
}

// atOnce reports whether closing a descriptor waits for nobody.
func atOnce(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err != nil:
		return false
	case domain == unix.AF_UNIX:
		return true
	case domain != unix.AF_INET && domain != unix.AF_INET6:
		return false
	}
	lingers, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
	return err == nil && (lingers.Onoff == 0 || lingers.Linger == 0)
}

// An aside counts the calls of one kind that have not come back.
type aside struct{ waiting atomic.Int32 }

// full reports whether as many wait as may.
func (a *aside) full() bool { return a.waiting.Load() >= mostAside }

// run runs f beside and waits for it at most for patience. It reports whether f has
// ended.
func (a *aside) run(patience time.Duration, f func()) bool {
	done := make(chan struct{})
	a.waiting.Add(1)
	go func() {
		f()
		a.waiting.Add(-1)
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
