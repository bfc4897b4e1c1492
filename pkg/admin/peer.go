package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/admin/socket"
)

// A Peer is who connected, in the kernel's words: the process that called
// connect(2), with the credentials that it had then.
type Peer struct {
	PID      int
	UID, GID uint32
	Groups   []uint32
	// pidfd pins the process since Linux 6.5 (SO_PEERPIDFD); -1 before.
	pidfd int
}

// soPeerPIDFD is SO_PEERPIDFD of asm-generic/socket.h (Linux 6.5).
const soPeerPIDFD = 77

// peerOf asks the kernel. The caller closes the peer with the connection.
func peerOf(conn *net.UnixConn) (*Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		peer  *Peer
		inner error
	)
	if err := raw.Control(func(fd uintptr) { peer, inner = peerOfFD(int(fd)) }); err != nil {
		return nil, err
	}
	return peer, inner
}

func peerOfFD(fd int) (*Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	if cred.Pid <= 0 {
		// The peer lives in a pid namespace that is not below ours: nothing can be
		// known of it.
		return nil, errors.New("the peer's process is not visible here")
	}
	p := &Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid, pidfd: -1}
	if p.Groups, err = socket.PeerGroups(fd); err != nil {
		return nil, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPIDFD)
	switch {
	case err == nil:
		p.pidfd = pidfd
	case errors.Is(err, unix.ENOPROTOOPT):
		// Before 6.5: the pid alone, with the short race of its reuse.
	default:
		return nil, fmt.Errorf("SO_PEERPIDFD: the peer has ended: %w", err)
	}
	return p, nil
}

func (p *Peer) close() {
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// InGroup reports whether the peer had the group, as its own or a
// supplementary one.
func (p *Peer) InGroup(gid uint32) bool { return p.GID == gid || slices.Contains(p.Groups, gid) }

// Cgroup gives the peer's cgroup2 path ("/" and what follows), as this process
// sees it. Where the kernel gives a pidfd, the answer is certainly about the
// process that connected; an error means that it cannot be known.
func (p *Peer) Cgroup() (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/cgroup")
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", p.PID, err)
	}
	if p.pidfd >= 0 {
		// The pid was not given to another process while we read: a process that
		// has not ended keeps it.
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != nil && !errors.Is(err, unix.EINTR) || n != 0 {
			return "", fmt.Errorf("process %d has ended", p.PID)
		}
	}
	for line := range strings.Lines(string(b)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", fmt.Errorf("process %d has no cgroup2 path", p.PID)
}
