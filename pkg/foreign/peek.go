package foreign

import (
	"encoding/binary"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// peekPatience bounds the reading of one queue. A workload can hold its lock.
	peekPatience = 500 * time.Millisecond
	// maxInFlight bounds what is taken from one queue.
	maxInFlight = 4096
	// maxEmpty is how many messages without anything are read one after the other.
	maxEmpty = 1024
	// maxSCM is SCM_MAX_FD, the most descriptors of one message.
	maxSCM = 253
)

// A peeked is what was in a queue.
type peeked struct {
	// sent says how many sockets and io_urings there were, seen how many descriptors.
	sent, seen int
	whole      bool
}

// peek gives duplicates of the sockets and io_urings among at least n descriptors
// in the queue of a unix socket, or among all that could be had; seen is how many
// these were, and whole says that there were n. The queue stays as it is.
//
// A queue may have files whose last word is the workload's: closing a duplicate of
// a FUSE file waits for its server (FUSE_FLUSH), and so would each child of ours
// that inherits it. So a thread with a table of its own takes what is there, and
// sends on only what is asked for. It may never end; there are at most mostAside.
func (sh *share) peek(fd, n int) (received []int, seen int, whole bool) {
	if sh.peeks.full() {
		return nil, 0, false
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, 0, false
	}
	defer closeAll(pair[:])
	to := pair[1]
	told := make(chan peeked, 1)
	sh.peeks.waiting.Add(1)
	err = withOwnTable([]int{fd, to}, func(err error) {
		if err != nil {
			told <- peeked{}
			return
		}
		fds, whole := peekQueue(fd, n)
		sent, ok := sendSockets(to, fds)
		told <- peeked{sent: sent, seen: len(fds), whole: whole && ok}
		closeAll(fds)
	}, func() { sh.peeks.waiting.Add(-1) })
	if err != nil {
		return nil, 0, false
	}
	timer := time.NewTimer(sh.patience)
	defer timer.Stop()
	select {
	case p := <-told:
		received = receiveAll(pair[0])
		return received, p.seen, p.whole && len(received) == p.sent
	case <-timer.C:
		return nil, 0, false
	}
}

// sendSockets sends those descriptors of this thread that are sockets or io_urings.
func sendSockets(to int, fds []int) (sent int, ok bool) {
	wanted := make([]int, 0, len(fds))
	for _, fd := range fds {
		if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
			wanted = append(wanted, fd)
			continue
		}
		// Nothing but its name is asked of what is no socket: its file system may be
		// the workload's own. A path of its choice may be too long to be told.
		if name, err := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(fd)); err == nil && name == ringTarget {
			wanted = append(wanted, fd)
		}
	}
	for some := range slices.Chunk(wanted, maxSCM) {
		if unix.Sendmsg(to, []byte{0}, unix.UnixRights(some...), nil, 0) != nil {
			return sent, false
		}
		sent += len(some)
	}
	return sent, true
}

// receiveAll takes what sendSockets sent.
func receiveAll(from int) (fds []int) {
	s := sink{data: [][]byte{make([]byte, 1)}, control: make([]byte, unix.CmsgSpace(4*maxSCM))}
	for {
		more, length, _ := s.receive(from, 0)
		if length <= 0 {
			return fds
		}
		fds = append(fds, more...)
	}
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
	return s.receive(fd, unix.MSG_PEEK)
}

// receive is peek with other flags.
func (s *sink) receive(fd, flags int) (fds []int, length int, ok bool) {
	length, n, flags, _, err := unix.RecvmsgBuffers(fd, s.data, s.control, flags|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
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
