package foreign

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

// maxReads bounds what is thrown away of one queue at one look.
const maxReads = 1 << 16

var errNotEmptied = errors.New("descriptors are left in the queue of a unix socket")

// stuffed deals with a queue that is never looked into: descriptors of a connection
// that nobody has accepted, nested too deep, too many, or after files for which too
// many peeks wait. Whoever can connect to a workload can send such, so what ends is
// the connection and not the workload. It has doubtFor to take them.
func (l *look) stuffed(h *holder, e entry, fd int, listens bool) error {
	l.stuffing = true
	if since := l.share.stuffed; since.IsZero() || time.Since(since) < doubtFor {
		return nil
	}
	return l.empty(h, e, fd, KindInFlight, listens)
}

// empty throws away what is in a queue, and tells. Where that fails the holder has
// its hand on the queue, and is in doubt.
func (l *look) empty(h *holder, e entry, fd int, kind string, listens bool) error {
	h.describe()
	if !l.share.throwAway(fd, listens) || l.tables.inFlight(unix.AT_FDCWD, ownInfo(fd)) > 0 {
		l.doubt(h, e)
		return fmt.Errorf("process %d: %s: %w", h.pid, kind, errNotEmptied)
	}
	l.tell(h, kind, netns.Socket{}, Emptied, nil)
	return nil
}

// throwAway ends a connection, or those that a listener has not accepted, with all
// that was sent by them; a datagram socket loses its datagrams. Received without
// room for control data, descriptors are dropped without having been anybody's
// (scm_destroy): no file is asked. It reports whether it came to its end in time:
// the holder can keep the queue's lock, and take from a listener what we saw there.
func (sh *share) throwAway(fd int, listens bool) bool {
	if sh.throws.full() {
		return false
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	return sh.throws.run(peekPatience, func() {
		defer unix.Close(own)
		var t tables
		left := func() bool { return t.inFlight(unix.AT_FDCWD, ownInfo(own)) > 0 }
		if listens {
			refuseWaiting(own, left)
			return
		}
		kind, err := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil {
			return
		}
		if kind != unix.SOCK_DGRAM {
			_ = unix.Shutdown(own, unix.SHUT_RDWR) // a stream with a hole is none
		}
		data := [][]byte{make([]byte, 64<<10)}
		for range maxReads {
			if !left() {
				return
			}
			if _, _, _, _, err := unix.RecvmsgBuffers(own, data, nil, unix.MSG_DONTWAIT); err != nil {
				return
			}
		}
	})
}

// refuseWaiting accepts and closes what waits at a listener, the oldest first, until
// none brings descriptors.
func refuseWaiting(listener int, left func() bool) {
	for range maxReads {
		waits := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if n, err := unix.Poll(waits, 0); n != 1 || err != nil || !left() {
			return
		}
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.Close(fd)
	}
}
