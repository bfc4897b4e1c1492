package foreign

import (
	"bytes"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

const (
	// doubtFor is how long a workload may have descriptors in flight, look after
	// look, that cannot be looked at.
	doubtFor = 2 * time.Second
	// maxNested bounds unix sockets in queues of unix sockets in queues …
	maxNested = 8
	// maxPeeks and maxReceived bound the queues that one look looks into, and the
	// descriptors in them: each takes a thread, about 0.4 ms, and whoever can connect to
	// a workload can make as many as it accepts.
	maxPeeks, maxReceived = 512, 1 << 16
	// maxInfo bounds what is read of a file in fdinfo, in bytes.
	maxInfo = 1 << 20
)

// parks reports whether descriptors wait in the queue of a unix socket that was not
// looked at in this look. The table that has it is being read.
func (l *look) parks(e entry) bool {
	if _, seen := l.queues[e.inode]; seen {
		return false
	}
	r := &l.tables.reading
	if r.fdinfo < 0 {
		dir, err := unix.Open(threadFile(r.pid, r.tid, "fdinfo"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false // it has ended
		}
		r.fdinfo = dir
	}
	return l.tables.inFlight(r.fdinfo, strconv.Itoa(e.fd)) > 0
}

// inFlight gives how many descriptors are in the queue of a unix socket, those of
// connections that it has not accepted among them; 0 for what is none.
func (t *tables) inFlight(dir int, fdinfo string) int {
	fd, err := unix.Openat(dir, fdinfo, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	kept := 0
	for total := 0; total < maxInfo; {
		n, err := unix.Read(fd, t.info[kept:])
		if err != nil || n <= 0 {
			return 0
		}
		total += n
		if inFlight, found := parseInFlight(t.info[:kept+n]); found {
			return inFlight
		}
		// The holder's locks on the socket are told first, as many as it likes.
		kept = copy(t.info[:], t.info[max(0, kept+n-maxInFlightLine):kept+n])
	}
	return maxInFlight + 1 // nobody has as many locks who hides nothing
}

// maxInFlightLine is how long the line is that parseInFlight looks for, at most.
const maxInFlightLine = 64

// parseInFlight reads the line "scm_fds: N" (unix_show_fdinfo, Linux 5.5).
func parseInFlight(info []byte) (n int, found bool) {
	_, value, found := bytes.Cut(info, []byte("\nscm_fds: "))
	value, _, whole := bytes.Cut(value, []byte("\n"))
	if !found || !whole {
		return 0, false
	}
	return number(bytes.TrimSpace(value))
}

// queue judges what is in flight to a unix socket, as if its holder had received
// it: it can at any time.
func (l *look) queue(h *holder, e entry, fd int) error {
	if _, seen := l.queues[e.inode]; seen {
		return nil
	}
	l.queues[e.inode] = struct{}{}
	n := l.tables.inFlight(unix.AT_FDCWD, ownInfo(fd))
	if n == 0 {
		return nil
	}
	if _, severed := l.share.severed[e.inode]; severed {
		// What the kernel still counts was urgent data (MSG_OOB) that nobody read.
		l.severed[e.inode] = struct{}{}
		return nil
	}
	switch l.claim(h, e) {
	case parents:
		// Its parent's queue, and whoever has it for longer is looked at too.
		delete(l.queues, e.inode)
		return nil
	case lent:
		return l.end(h, e, KindInFlight, netns.Socket{})
	}
	// What was sent to a connection can be read by nobody until it is accepted.
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return err
	}
	if accepts != 0 || l.nested >= maxNested || n > maxInFlight || l.peeks >= maxPeeks || l.received >= maxReceived || l.share.peeks.full() {
		return l.stuffed(h, e, fd, accepts != 0)
	}
	received, seen, whole := l.share.peek(fd, n)
	for _, one := range received {
		l.s.taken[one] = struct{}{}
	}
	l.peeks++
	l.received += seen
	var first error
	// What was read while we read is not there any more.
	if !whole && seen < min(n, l.tables.inFlight(unix.AT_FDCWD, ownInfo(fd))) {
		first = l.stuffed(h, e, fd, false)
	}
	l.rest() // peeking takes its time, whatever was found
	outer := l.refused
	l.refused = ""
	l.nested++
	for _, one := range received {
		if l.stopped {
			first = errStopped
			break
		}
		if err := l.judgeInFlight(h, e, one); err != nil && !gone(err) && (first == nil || errors.Is(err, errStopped)) {
			first = err
		}
	}
	l.nested--
	l.share.closeTaken(received...)
	inner := l.refused
	l.refused = outer
	if inner != "" {
		first = errors.Join(first, l.empty(h, e, fd, inner, false))
	}
	return first
}

// judgeInFlight decides on a descriptor that was in a queue.
func (l *look) judgeInFlight(h *holder, e entry, fd int) error {
	at := entry{tid: e.tid, fd: -1}
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return l.ring(h, at, ownInfo(fd)) // peek gives nothing else; before Linux 6.7
	}
	return l.judge(h, at, fd)
}

// doubt remembers that a holder keeps something from being looked at: it has its hand
// on a queue that is to be emptied, or makes us wait too often.
func (l *look) doubt(h *holder, e entry) {
	l.doubted = append(l.doubted, unresolved{holder: h, entry: e})
}

// settle ends who has kept for too long what could not be looked at.
func (l *look) settle() {
	now := time.Now()
	l.share.forgetSpared(now)
	l.share.stuffed, l.share.severed, l.share.unexecuted = l.stuffing, l.severed, l.unexecuted
	switch {
	case len(l.doubted) == 0:
		l.share.unsure = time.Time{}
	case l.share.unsure.IsZero():
		l.share.unsure = now
	case now.Sub(l.share.unsure) >= doubtFor:
		for _, u := range l.doubted {
			if err := l.end(u.holder, u.entry, KindInFlight, netns.Socket{}); err != nil && !gone(err) {
				l.errs = append(l.errs, err)
			}
		}
	}
}

func ownInfo(fd int) string { return "/proc/self/fdinfo/" + strconv.Itoa(fd) }
