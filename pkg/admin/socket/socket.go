// Package socket makes the admin socket in the privileged process: with the
// right owner and mode from its first moment, never in the place of a socket on
// which somebody still listens. It parses nothing; the worker accepts.
package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Options says which socket.
type Options struct {
	// Path of the socket. Its directory is made, with mode 0755, if it does not
	// exist.
	Path string
	// Group may connect; a group that does not exist, or "", leaves root alone
	// and gives a warning.
	Group string
	// Owner is the uid that may connect beside the group; 0 for the daemon, the
	// caller for `exec` without one.
	Owner int
	// Packet makes a SOCK_SEQPACKET socket ("unixpacket") instead of a stream.
	Packet bool
}

// The errors of Listen.
var (
	// ErrInUse: somebody listens on the path.
	ErrInUse = errors.New("another sallyport answers there")
	// ErrUnsafe: somebody else could exchange the socket, or the path holds
	// something that is no socket.
	ErrUnsafe = errors.New("unsafe socket path")
)

// A Socket is a listening admin socket.
type Socket struct {
	// Listener is to be handed to the worker; closing it leaves the path.
	Listener *net.UnixListener
	// GroupID is the group that may connect, -1 for none.
	GroupID int
	// Warning tells why the group cannot connect; empty when it can.
	Warning string

	path string
	// inode holds the path's file (O_PATH): while it is held its number is not
	// given to another file.
	inode *os.File
}

// backlog of connections that nobody has accepted yet.
const backlog = 64

// Listen makes the socket. A socket that a crashed process left is replaced. It
// fails with ErrInUse and ErrUnsafe, and with the errors of bind(2).
func Listen(o Options) (*Socket, error) {
	s := &Socket{path: o.Path}
	s.GroupID, s.Warning = groupID(o.Group, o.Path)
	dirName := filepath.Dir(o.Path)
	if err := os.MkdirAll(dirName, 0o755); err != nil {
		return nil, fmt.Errorf("directory of the admin socket: %w", err)
	}
	dir, err := os.OpenFile(dirName, unix.O_DIRECTORY|os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("directory of the admin socket: %w", err)
	}
	defer dir.Close()
	if err := checkDir(dir, o.Owner); err != nil {
		return nil, err
	}
	// Two that start at the same time would each find the other's socket stale
	// between bind and listen. The lock goes with the descriptor.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dirName, err)
	}
	if err := clear(o); err != nil {
		return nil, err
	}
	if s.Listener, err = listen(o, s.GroupID); err != nil {
		return nil, err
	}
	fd, err := unix.Open(o.Path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", o.Path, err), s.Listener.Close())
	}
	s.inode = os.NewFile(uintptr(fd), o.Path)
	return s, nil
}

// Remove takes the path away if it still leads to this socket. It does not close
// the listener. A second call does nothing.
func (s *Socket) Remove() error {
	if s.inode == nil {
		return nil
	}
	defer func() {
		s.inode.Close()
		s.inode = nil
	}()
	ours, err := s.inode.Stat()
	if err != nil {
		return fmt.Errorf("remove admin socket %s: %w", s.path, err)
	}
	present, err := os.Lstat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(ours, present) {
		return nil
	}
	if err == nil {
		err = unix.Unlink(s.path)
	}
	if err != nil {
		return fmt.Errorf("remove admin socket %s: %w", s.path, err)
	}
	return nil
}

// checkDir refuses a directory in which somebody else could rename our socket
// away and put another there.
func checkDir(dir *os.File, owner int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("directory of the admin socket: %w", err)
	}
	uid := int(st.Uid)
	switch {
	case uid != 0 && uid != os.Geteuid() && uid != owner:
		return fmt.Errorf("%w: directory %s belongs to uid %d", ErrUnsafe, dir.Name(), uid)
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("%w: others may write to directory %s; chmod go-w it", ErrUnsafe, dir.Name())
	}
	return nil
}

// clear removes a stale socket.
func clear(o Options) error {
	path, network := o.Path, "unix"
	if o.Packet {
		network = "unixpacket"
	}
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("admin socket %s: %w", path, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%w: %s exists and is no socket", ErrUnsafe, path)
	}
	conn, err := net.DialTimeout(network, path, 2*time.Second)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%w: %s", ErrInUse, path)
	case errors.Is(err, unix.ECONNREFUSED):
		// Nobody has it open: its process is gone.
	default:
		// A full backlog (EAGAIN) is somebody who is busy.
		return fmt.Errorf("%w: %s: %w", ErrInUse, path, err)
	}
	if err := unix.Unlink(path); err != nil {
		return fmt.Errorf("remove stale admin socket: %w", err)
	}
	return nil
}

func listen(o Options, group int) (*net.UnixListener, error) {
	kind := unix.SOCK_STREAM
	if o.Packet {
		kind = unix.SOCK_SEQPACKET
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), o.Path)
	defer file.Close()
	// bind(2) takes the mode of the new file from the socket: closed until it has
	// its owner.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: o.Path})
	}
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", o.Path, err)
	}
	mode := uint32(0o600)
	if group >= 0 {
		mode = 0o660
	}
	// The mode first: what belongs to another user may be changed only with
	// CAP_FOWNER, which the keeper does not keep. Until it has its group it is
	// open to root's.
	if err = unix.Chmod(o.Path, mode); err == nil {
		err = unix.Lchown(o.Path, o.Owner, max(group, 0))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", o.Path, err), unix.Unlink(o.Path))
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", o.Path, err), unix.Unlink(o.Path))
	}
	return l.(*net.UnixListener), nil
}

func groupID(name, path string) (int, string) {
	if name == "" {
		return -1, ""
	}
	g, err := user.LookupGroup(name)
	if err == nil {
		var id int
		if id, err = strconv.Atoi(g.Gid); err == nil {
			return id, ""
		}
	}
	return -1, fmt.Sprintf("admin socket %s: only root may connect: %v; make the group with `groupadd --system %s` and restart", path, err, name)
}
