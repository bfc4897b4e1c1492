package socket

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Adopt takes over the listener of an earlier process, which waits at its path
// since then. The file stays the caller's. Where the path has been removed, leads
// to no socket or is another one, or its group or owner have changed, it fails:
// then Listen makes a new one.
func Adopt(o Options, f *os.File) (*Socket, error) {
	s := &Socket{path: o.Path}
	s.GroupID, s.Warning = groupID(o.Group, o.Path)
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok || u.Addr().String() != o.Path {
		return nil, errors.Join(fmt.Errorf("admin socket: listens on %s, want %s", l.Addr(), o.Path), l.Close())
	}
	// As with those of Listen: the path is removed by Remove alone.
	u.SetUnlinkOnClose(false)
	s.Listener = u
	fd, err := unix.Open(o.Path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", o.Path, err), l.Close())
	}
	s.inode = os.NewFile(uintptr(fd), o.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", o.Path, err), l.Close(), s.inode.Close())
	}
	mode := uint32(unix.S_IFSOCK | 0o600)
	if s.GroupID >= 0 {
		mode = unix.S_IFSOCK | 0o660
	}
	if st.Mode != mode || int(st.Uid) != o.Owner || int(st.Gid) != max(s.GroupID, 0) {
		return nil, errors.Join(fmt.Errorf("admin socket %s: mode %o of %d:%d", o.Path, st.Mode, st.Uid, st.Gid), l.Close(), s.inode.Close())
	}
	return s, nil
}
