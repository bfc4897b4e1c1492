package foreign

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// closePatience is how long the Sweeper waits for a close.
	closePatience = 100 * time.Millisecond
	// mostAside bounds the calls of one kind for a share that have not come back.
	mostAside = 8
	// mostLingering bounds the sockets that wait to be closed.
	mostLingering = 256
)

// closeTaken closes what was taken. While a socket is held its process may close its
// own; then ours is the last, and closing waits as long as whoever made it chose, up
// to 18 h with SO_LINGER: see closeLingering. What is no socket by now was put into
// its place by its process, and beyond closePatience its closing goes on beside.
func (sh *share) closeTaken(fds ...int) {
	var others []int
	for _, fd := range fds {
		waits, err := closeWaits(fd)
		if !waits || errors.Is(err, unix.ENOTSOCK) {
			delete(sh.s.taken, fd)
		}
		switch {
		case errors.Is(err, unix.ENOTSOCK):
			others = append(others, fd)
		case waits:
			sh.lingering = append(sh.lingering, fd)
		default:
			_ = unix.Close(fd)
		}
	}
	if len(others) > 0 {
		sh.closes.run(closePatience, func() { closeAll(others) })
	}
	if len(sh.lingering) >= mostLingering {
		sh.closeLingering()
	}
}

// closeWaits reports whether closing a socket may wait for somebody.
func closeWaits(fd int) (bool, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err != nil:
		return true, err
	case domain == unix.AF_UNIX:
		return false, nil
	case domain != unix.AF_INET && domain != unix.AF_INET6:
		return true, nil
	}
	lingers, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
	return err != nil || lingers.Onoff != 0 && lingers.Linger != 0, nil
}

// closeLingering leaves the last close of sockets to a thread that ends: the kernel
// does not linger for one (PF_EXITING, inet_release).
func (sh *share) closeLingering() {
	fds := sh.lingering
	if len(fds) == 0 {
		return
	}
	sh.lingering = nil
	for _, fd := range fds {
		delete(sh.s.taken, fd)
	}
	closed := make(chan struct{})
	if err := withOwnTable(fds, func(error) { <-closed }, func() {}); err != nil {
		sh.closes.run(closePatience, func() { closeAll(fds) })
		return
	}
	closeAll(fds) // not the last: that thread has them
	close(closed)
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
