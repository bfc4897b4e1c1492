package foreign

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

const (
	// doubtFor is how long a workload may have descriptors in flight, look after
	// look, that cannot be looked at: those of a connection that nobody has accepted
	// yet, or of a queue that is read while we read it.
	doubtFor = 2 * time.Second
	// peekPatience bounds the reading of one queue. A workload can hold its lock.
	peekPatience = 500 * time.Millisecond
	// maxNested bounds unix sockets in queues of unix sockets in queues …
	maxNested = 8
	// maxInFlight bounds what is taken from one queue.
	maxInFlight = 4096
	// maxEmpty is how many messages without anything are read one after the other.
	maxEmpty = 1024
	// maxSCM is SCM_MAX_FD, the most descriptors of one message.
	maxSCM = 253
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
	n, err := unix.Read(fd, t.info[:])
	_ = unix.Close(fd)
	if err != nil {
		return 0
	}
	return parseInFlight(t.info[:n])
}

// parseInFlight reads "scm_fds: N" (unix_show_fdinfo, Linux 5.5).
func parseInFlight(info []byte) int {
	_, value, ok := bytes.Cut(info, []byte("\nscm_fds: "))
	if !ok {
		return 0
	}
	value, _, _ = bytes.Cut(value, []byte("\n"))
	n, ok := number(bytes.TrimSpace(value))
	if !ok {
		return 0
	}
	return n
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
	if h.forked(e) {
		// Its parent's queue, and whoever has it for longer is looked at too.
		delete(l.queues, e.inode)
		return nil
	}
	// What was sent to a connection can be read by nobody until it is accepted.
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || accepts != 0 || l.nested >= maxNested {
		l.doubt(h, e)
		return err
	}
	received, whole := l.share.peek(fd, min(n, maxInFlight))
	if !whole || n > maxInFlight {
		// What was read while we read is not there any more.
		if len(received) < min(n, l.tables.inFlight(unix.AT_FDCWD, ownInfo(fd))) || n > maxInFlight {
			l.doubt(h, e)
		}
	}
	l.nested++
	defer func() { l.nested-- }()
	first := l.step(len(received))
	for _, one := range received {
		if first == nil || !errors.Is(first, errBeyond) && !errors.Is(first, errStopped) {
			if err := l.judgeInFlight(h, e, one); err != nil && first == nil && !gone(err) {
				first = err
			}
		}
		l.share.closeTaken(one)
	}
	return first
}

// judgeInFlight decides on a descriptor that was in a queue.
func (l *look) judgeInFlight(h *holder, e entry, fd int) error {
	at := entry{tid: e.tid, fd: -1}
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		// Nothing but its name is asked of what is no socket: its file system may be
		// the workload's own.
		name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err == nil && name == ringTarget { // before Linux 6.7
			return l.ring(h, at, ownInfo(fd))
		}
		return nil
	}
	return l.judge(h, at, fd)
}

// doubt remembers that something could not be looked at.
func (l *look) doubt(h *holder, e entry) {
	l.doubted = append(l.doubted, unresolved{holder: h, entry: e})
}

// settle ends who has had for too long what could not be looked at.
func (l *look) settle() {
	switch now := time.Now(); {
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

// peek gives duplicates of at least n descriptors in the queue of a unix socket, or
// of all that could be had; whole says that there are n. The queue stays as it is.
func (sh *share) peek(fd, n int) (received []int, whole bool) {
	if sh.aside.Load() >= mostAside {
		return nil, false
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	var mu sync.Mutex
	late := false
	var fds []int
	ended := sh.beside(peekPatience, func() {
		defer unix.Close(own)
		got, all := peekQueue(own, n)
		mu.Lock()
		defer mu.Unlock()
		if late {
			closeAll(got)
			return
		}
		fds, whole = got, all
	})
	mu.Lock()
	defer mu.Unlock()
	if !ended {
		late = true
	}
	return fds, whole
}

// peekQueue reads the queue with MSG_PEEK, which duplicates what is in flight:
// first what any reader would get, and where that is not all, message by message
// with an offset. The offset is the socket's, so it is put back.
func peekQueue(fd, n int) (fds []int, whole bool) {
	const none = -1
	offset := func(n int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, n) }
	before, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if err != nil || before != none && offset(none) != nil {
		return nil, false
	}
	moved := false
	defer func() {
		if moved || before != none {
			_ = offset(before)
		}
	}()
	sink := newSink()
	first, length, ok := sink.peek(fd)
	if ok && len(first) >= n {
		return first, true
	}
	if moved = true; offset(0) != nil {
		return first, false
	}
	// With an offset the kernel leaves out what is empty and was peeked at before.
	if length > 0 {
		n += len(first)
	}
	fds = first
	// The end of the file looks like empty messages.
	for empty := 0; len(fds) <= n+maxInFlight && empty < maxEmpty; {
		more, length, ok := sink.peek(fd)
		fds = append(fds, more...)
		if !ok || length < 0 {
			return fds, ok && len(fds) >= n
		}
		if empty++; length > 0 || len(more) > 0 {
			empty = 0
		}
	}
	return fds, len(fds) >= n
}

// A sink takes in what comes with descriptors. Nobody reads it.
type sink struct {
	data    [][]byte
	control []byte
}

// newSink has room for more than the queue of a unix socket holds with the default
// of net.core.wmem_max, 16 MiB, all of it the same 64 KiB.
func newSink() *sink {
	one := make([]byte, 64<<10)
	s := &sink{control: make([]byte, unix.CmsgSpace(4*maxSCM)+4096)}
	for range 256 {
		s.data = append(s.data, one)
	}
	return s
}

func (s *sink) size() int { return len(s.data) * len(s.data[0]) }

// peek reads one message; length is -1 at the end of the queue. It is not ok where
// more was there than there was room for.
func (s *sink) peek(fd int) (fds []int, length int, ok bool) {
	length, n, flags, _, err := unix.RecvmsgBuffers(fd, s.data, s.control, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, -1, err == unix.EAGAIN
	}
	messages, err := unix.ParseSocketControlMessage(s.control[:n])
	if err != nil {
		return nil, length, false
	}
	for i := range messages {
		m := &messages[i]
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_RIGHTS:
			some, err := unix.ParseUnixRights(m)
			if err != nil {
				return fds, length, false
			}
			fds = append(fds, some...)
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_PIDFD && len(m.Data) >= 4:
			_ = unix.Close(int(int32(binary.NativeEndian.Uint32(m.Data))))
		}
	}
	return fds, length, flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 && length < s.size()
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
