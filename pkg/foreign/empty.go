package foreign

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

const (
	// maxReads bounds what is thrown away of one queue at one look.
	maxReads = 1 << 16
	// maxWaiting and maxDatagrams are how much of it is thrown away before a listener or
	// a datagram socket is shut for it: whoever sends faster than we read must not have
	// the last word. They are the kernel's usual bounds of such queues.
	maxWaiting, maxDatagrams = 4096, 512
)

var errNotEmptied = errors.New("descriptors are left in the queue of a unix socket")

// stuffed deals with a queue that is not looked into: descriptors of a connection
// that nobody has accepted, nested too deep, too many, that MSG_PEEK does not show,
// or after files for which too many peeks wait. Whoever can connect to a workload can
// send such, so what ends is the connection and not the workload. It has doubtFor to
// take them.
func (l *look) stuffed(h *holder, e entry, fd int, listens bool) error {
	since, before := l.share.stuffed[e.inode]
	if !before {
		since = time.Now()
	}
	l.stuffing[e.inode] = since
	if time.Since(since) < doubtFor {
		return nil
	}
	return l.empty(h, e, fd, KindInFlight, listens)
}

// empty throws away what is in a queue, and tells. Where that fails the holder has its
// hand on the queue, and is in doubt. On a queue in a queue whoever sent it may have:
// there the outermost, which is the holder's, is emptied instead.
func (l *look) empty(h *holder, e entry, fd int, kind string, listens bool) error {
	if l.nested > 0 {
		l.refused = kind
		return nil
	}
	h.describe()
	emptied, severed := l.share.throwAway(fd, listens)
	if !emptied {
		l.doubt(h, e)
		return fmt.Errorf("process %d: %s: %w", h.pid, kind, errNotEmptied)
	}
	delete(l.stuffing, e.inode)
	if severed {
		l.severed[e.inode] = struct{}{}
	}
	l.tell(h, kind, netns.Socket{}, Emptied, nil)
	return nil
}

// throwAway ends a connection, or those that a listener has not accepted, with all
// that was sent by them; a datagram socket loses its datagrams. A datagram socket or
// listener that is sent to faster than it can be emptied is shut for good. Received
// without room for control data, descriptors are dropped without having been
// anybody's (scm_destroy): no file is asked. severed says that nothing can come to
// the socket any more. emptied is false where that did not come to its end in time:
// the holder can keep the queue's lock.
func (sh *share) throwAway(fd int, listens bool) (emptied, severed bool) {
	if sh.throws.full() {
		return false, false
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false, false
	}
	done := make(chan [2]bool, 1)
	sh.throws.run(sh.patience, func() {
		defer unix.Close(own)
		emptied, severed := throwAllAway(own, listens)
		done <- [2]bool{emptied, severed}
	})
	select {
	case result := <-done:
		return result[0], result[1]
	default:
		return false, false
	}
}

// throwAllAway is throwAway without a bound in time.
func throwAllAway(fd int, listens bool) (emptied, severed bool) {
	var t tables
	left := func() bool { return t.inFlight(unix.AT_FDCWD, ownInfo(fd)) > 0 }
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return false, false
	}
	throw, gently := func(most int) bool { return receiveAway(fd, kind, most, left) }, 0
	switch {
	case listens:
		throw, gently = func(most int) bool { return refuseWaiting(fd, most, left) }, maxWaiting
	case kind == unix.SOCK_DGRAM:
		gently = maxDatagrams
	}
	if gently > 0 && throw(gently) { // a stream with a hole is none
		return true, false
	}
	if unix.Shutdown(fd, unix.SHUT_RDWR) != nil {
		return !left(), false
	}
	return throw(maxReads), true
}

// receiveAway receives messages until none brings descriptors.
func receiveAway(fd, kind, most int, left func() bool) bool {
	data := [][]byte{make([]byte, 64<<10)}
	for range most {
		if !left() {
			return true
		}
		switch n, _, _, _, err := unix.RecvmsgBuffers(fd, data, nil, unix.MSG_DONTWAIT); {
		case err == unix.EAGAIN, err == nil && n == 0 && kind == unix.SOCK_STREAM:
			return true // nothing is there: urgent data that was dropped is counted on
		case err != nil && err != unix.EINTR:
			return !left()
		}
	}
	return !left()
}

// refuseWaiting accepts and closes what waits at a listener, the oldest first, until
// none brings descriptors.
func refuseWaiting(listener, most int, left func() bool) bool {
	for range most {
		waits := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if n, err := unix.Poll(waits, 0); n != 1 || err != nil || !left() {
			break
		}
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			break
		}
		_ = unix.Close(fd)
	}
	return !left()
}
