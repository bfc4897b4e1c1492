package confine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotConfined says that a process is in the caller's own mount namespace:
// it has not come to Exec yet, or never will.
var ErrNotConfined = errors.New("not confined")

// Renew covers anew what a running command must not reach, for servers that
// started or made their socket again after it (the kernel drops a mount over a
// file when the host removes the file), and makes cgroup file systems
// read-only that the host mounted since. fd is of a mount namespace of the
// command, or a pidfd of a process that has it; s is what it was started with. It
// needs the capabilities that Exec needs, and is cheap where there is nothing to do.
//
// Only what lies in /run is looked at, without following links below it: the
// rest of s.Hide is under directories whose owner could lead the caller, which
// is root, elsewhere.
func Renew(fd int, s *Spec) error {
	done := make(chan error, 1)
	go func() {
		// A thread that has entered another mount namespace must not serve
		// others again: it ends with this goroutine.
		runtime.LockOSThread()
		done <- renew(fd, s)
	}()
	return <-done
}

func renew(fd int, s *Spec) error {
	// setns asks for a root and working directory that no thread shares.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return failed(opMounts, "unshare", err)
	}
	if err := enter(fd); err != nil {
		return failed(opMounts, "enter", err)
	}
	m := &mounts{}
	defer m.close()
	hide := make([]Hidden, 0, len(s.Own)+len(s.Hide))
	for _, path := range s.Own {
		hide = append(hide, Hidden{Path: path})
	}
	if !s.KeepSockets {
		hide = append(hide, s.Hide...)
	}
	for _, h := range hide {
		if err := m.renewOne(h); err != nil {
			return failed("hide", h.Path, err)
		}
	}
	for _, c := range m.covers {
		if err := readOnly(c.fd); err != nil {
			return failed("hide", c.path, err)
		}
	}
	return m.lockCgroups()
}

// enter goes into that mount namespace, and makes sure of it: what
// follows would hide the host's own sockets and lock its cgroups.
func enter(fd int) error {
	before, err := mountNamespace()
	if err != nil {
		return err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return err
	}
	after, err := mountNamespace()
	if err != nil {
		return err
	}
	if before == after {
		return ErrNotConfined
	}
	return nil
}

// mountNamespace is the name of the calling thread's, "mnt:[INODE]".
func mountNamespace() (string, error) { return os.Readlink(proc + "ns/mnt") }

func (m *mounts) renewOne(h Hidden) error {
	path := filepath.Clean(h.Path)
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = "/run/" + rest // FHS 3.0: the one is a link to the other
	}
	if !strings.HasPrefix(path, "/run/") || m.hides(path) {
		return nil
	}
	target, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES), errors.Is(err, unix.ELOOP):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(target)
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	if covered, err := isCover(target, &st); covered || err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return m.hideDirectory(h, target, path)
	}
	return m.hideFile(target, path)
}

// isCover says whether hide has been here: /dev/null, or a read-only tmpfs of
// the size that coverDirectory makes. Nothing on a host looks like that, and
// the command can mount nothing.
func isCover(target int, st *unix.Stat_t) (bool, error) {
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return st.Rdev == unix.Mkdev(1, 3), nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(target, &fs); err != nil {
		return false, err
	}
	return fs.Type == unix.TMPFS_MAGIC && fs.Files == coverInodes && fs.Flags&unix.ST_RDONLY != 0, nil
}
