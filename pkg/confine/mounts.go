package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

const opMounts = "mount namespace"

// mounts is the mount namespace that the calling thread has entered.
type mounts struct {
	// covers are the directories made empty, by the path that they have.
	covers []cover
	// covered are all paths over which something was mounted.
	covered []string
}

// A cover is an empty file system over a directory.
type cover struct {
	path  string
	given string // as the caller named it, perhaps through a link
	fd    int    // of its root
}

// newMounts gives the calling thread its own mount namespace. Mounts that the
// host makes later appear in it; nothing that happens in it is seen outside.
func newMounts() (*mounts, error) {
	before, err := mountNamespace()
	if err != nil {
		return nil, failed(opMounts, "", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, failed(opMounts, "unshare", err)
	}
	// Everything that follows changes mounts. It must never be the host's that
	// change, whatever thread this runs on.
	after, err := mountNamespace()
	if err != nil {
		return nil, failed(opMounts, "", err)
	}
	if before == after {
		return nil, failed(opMounts, "unshare", errors.New("still in the host's"))
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, failed(opMounts, "make the root a slave", err)
	}
	return &mounts{}, nil
}

// apply mounts all that a command's view differs in. Sources of trust are
// taken first, since they lie in directories that are then hidden.
func (m *mounts) apply(s *Spec) error {
	defer m.close()
	trust := make([]int, len(s.Trust))
	for i, t := range s.Trust {
		fd, err := cloneTree(t.Source)
		if err != nil {
			return failed(opMounts, t.Source, err)
		}
		defer unix.Close(fd)
		trust[i] = fd
	}
	for _, path := range s.Own {
		if err := m.hide(Hidden{Path: path}, s); err != nil {
			return err
		}
	}
	if !s.KeepSockets {
		for _, h := range s.Hide {
			if err := m.hide(h, s); err != nil {
				return err
			}
		}
	}
	for i, t := range s.Trust {
		if err := m.show(trust[i], t.Target); err != nil {
			return err
		}
	}
	for _, c := range m.covers {
		if err := readOnly(c.fd); err != nil {
			return failed(opMounts, c.path, err)
		}
	}
	if err := m.lockCgroups(); err != nil {
		return err
	}
	return m.leaveCovered()
}

func (m *mounts) close() {
	for _, c := range m.covers {
		unix.Close(c.fd)
	}
	m.covers = nil
}

// show mounts a tree over the directory at target, which is made where it lies
// in one of our own covers; or, where the tree is a file, over the file there.
func (m *mounts) show(tree int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return failed("mount trust directory", target, err)
	}
	place := m.place
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		place = placeFile
	}
	at, err := place(target)
	if err != nil {
		return failed("mount trust directory", target, err)
	}
	defer unix.Close(at)
	path, err := os.Readlink(fdPath(at))
	if err != nil {
		return failed("mount trust directory", target, err)
	}
	if err := readOnly(tree); err != nil {
		return failed("mount trust directory", target, err)
	}
	if err := attach(tree, at); err != nil {
		return failed("mount trust directory", target, err)
	}
	m.covered = append(m.covered, path)
	return nil
}

func (m *mounts) place(target string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	target = filepath.Clean(target)
	for _, c := range m.covers {
		rest, ok := below(target, c.path)
		if !ok {
			rest, ok = below(target, c.given)
		}
		if !ok {
			continue
		}
		names := strings.Split(rest, "/")
		for i := range names {
			err := unix.Mkdirat(c.fd, strings.Join(names[:i+1], "/"), 0o555)
			if err != nil && err != unix.EEXIST {
				return -1, err
			}
		}
		return unix.Openat(c.fd, rest, flags|unix.O_NOFOLLOW, 0)
	}
	return unix.Open(target, flags, 0)
}

// placeFile opens a file over which another one is mounted. What its directory
// is and whose is no matter: only this name changes, and only for the command.
func placeFile(target string) (int, error) {
	fd, err := unix.Open(filepath.Clean(target), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, errors.Join(err, fmt.Errorf("%w: not a file", unix.EINVAL))
	}
	return fd, nil
}

// lockCgroups makes every cgroup file system read-only in this namespace, of
// either version and wherever it is mounted. A mount that another one covers
// cannot be reached by the command either.
func (m *mounts) lockCgroups() error {
	list, err := workload.Mounts()
	if err != nil {
		return failed(opMounts, "", err)
	}
	for _, mount := range list {
		if mount.Type != "cgroup" && mount.Type != "cgroup2" {
			continue
		}
		if err := lockMount(mount); err != nil && isMounted(mount) {
			return failed("make cgroup file system read-only", mount.Point, err)
		}
	}
	return nil
}

// isMounted says whether a mount is still there: the host may unmount it at
// any time, also by removing the directory under it.
func isMounted(mount workload.Mount) bool {
	list, err := workload.Mounts()
	return err != nil || slices.Contains(list, mount)
}

func lockMount(mount workload.Mount) error {
	fd, err := unix.Open(mount.Point, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // something else lies over a directory above it
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	if st.Mnt_id != uint64(mount.ID) {
		return nil
	}
	return setAttributes(fd, unix.MOUNT_ATTR_RDONLY)
}

// leaveCovered enters the working directory again where it lies behind a new
// mount: it would be a way to what that hides.
func (m *mounts) leaveCovered() error {
	dir, err := os.Readlink(proc + "cwd")
	if err != nil {
		return failed(opMounts, "working directory", err)
	}
	if !m.hides(dir) {
		return nil
	}
	if err := unix.Chdir(dir); err != nil {
		return failed("working directory is hidden from the command", dir, err)
	}
	return nil
}

// reopen opens inherited directories again, at the same numbers: through the
// old ones the command would see the mounts of the namespace that it left.
func (m *mounts) reopen(directories []int) error {
	const op = "reopen inherited directory"
	for _, fd := range directories {
		path, err := os.Readlink(fdPath(fd))
		if err != nil {
			return failed(op, strconv.Itoa(fd), err)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return failed(op, path, err)
		}
		fresh, err := unix.Open(path, flags&(unix.O_PATH|unix.O_NONBLOCK|unix.O_NOATIME)|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return failed(op, strconv.Itoa(fd)+" "+path, fmt.Errorf("%w (%w)", ErrDescriptor, err))
		}
		defer unix.Close(fresh)
		if !m.hides(path) && !sameFile(fd, fresh) {
			return failed(op, strconv.Itoa(fd)+" "+path, fmt.Errorf("%w: it was removed or moved", ErrDescriptor))
		}
		if err := unix.Dup3(fresh, fd, 0); err != nil {
			return failed(op, path, err)
		}
	}
	return nil
}

// hides says whether something was mounted over the path or above it.
func (m *mounts) hides(path string) bool {
	for _, c := range m.covered {
		if within(path, c) {
			return true
		}
	}
	return false
}

// within says whether path is dir or lies below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}

// below is the part of path under dir; a path that is dir itself is not below.
func below(path, dir string) (string, bool) {
	rest, ok := strings.CutPrefix(path, dir+"/")
	return rest, ok && rest != ""
}

func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// cloneTree is a copy of the mount that shows a file or directory, attached
// nowhere yet.
func cloneTree(path string) (int, error) {
	if !filepath.IsAbs(path) {
		return -1, fmt.Errorf("%q is not absolute", path)
	}
	return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

// readOnly also takes what no socket, certificate or configuration file needs.
func readOnly(mount int) error {
	return setAttributes(mount, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// attach mounts a detached tree over an open file or directory.
func attach(tree, over int) error {
	return unix.MoveMount(tree, "", over, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// setAttributes adds attributes and leaves the others (mount_setattr, 5.12).
func setAttributes(mount int, attributes uint64) error {
	return unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attributes})
}

func fdPath(fd int) string { return proc + "fd/" + strconv.Itoa(fd) }

// mountsSupported asks for mount_setattr, the youngest call used here (5.12).
func mountsSupported() error {
	if err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("mount_setattr (Linux 5.12): %w", ErrNotSupported)
	}
	return nil
}
