package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// hideAttempts is how often a path is looked up again that its server has
// removed and made anew in between.
const hideAttempts = 4

// hide covers one path as it resolves now, so that /var/run is /run.
func (m *mounts) hide(h Hidden, s *Spec) error {
	var err error
	for range hideAttempts {
		if err = m.tryHide(h, s); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	return failed("hide", h.Path, err)
}

func (m *mounts) tryHide(h Hidden, s *Spec) error {
	target, err := openAs(h.Path, s.UID, s.GID)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES), errors.Is(err, unix.ELOOP):
		return nil // neither root nor the user can get there
	case err != nil:
		return err
	}
	defer unix.Close(target)
	path, err := os.Readlink(fdPath(target))
	if err != nil {
		return err
	}
	if m.hides(path) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return m.hideDirectory(h, target, path)
	}
	return m.hideFile(target, path)
}

func (m *mounts) hideFile(target int, path string) error {
	// Connecting to what is no socket is ECONNREFUSED, as if the server had
	// ended; nodev keeps it from being a device either.
	null, err := cloneTree("/dev/null")
	if err != nil {
		return err
	}
	defer unix.Close(null)
	if err := readOnly(null); err != nil {
		return err
	}
	if err := attach(null, target); err != nil {
		return err
	}
	m.covered = append(m.covered, path)
	return nil
}

func (m *mounts) hideDirectory(h Hidden, target int, path string) error {
	var files []keptFile
	if h.KeepFiles {
		var err error
		if files, err = keepFiles(path); err != nil {
			return err
		}
		defer closeAll(files)
	}
	c, err := coverDirectory(target, path)
	if err != nil {
		return err
	}
	c.given = filepath.Clean(h.Path)
	m.covers = append(m.covers, c)
	m.covered = append(m.covered, path)
	for _, f := range files {
		if err := c.put(f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

const (
	// maxKept bounds the files that stay visible in a hidden directory.
	maxKept = 64
	// coverInodes is the size of the file system over it, with places for
	// those, and by which Renew knows it.
	coverInodes = 2*maxKept + 1
)

// coverDirectory mounts an empty file system over an open directory. It is
// still writable for us.
func coverDirectory(target int, path string) (cover, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return cover{}, err
	}
	defer unix.Close(fs)
	for key, value := range map[string]string{"source": "sallyport", "mode": "0555", "size": "64k", "nr_inodes": strconv.Itoa(coverInodes)} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return cover{}, fmt.Errorf("tmpfs %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return cover{}, err
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return cover{}, err
	}
	if err := attach(root, target); err != nil {
		unix.Close(root)
		return cover{}, err
	}
	return cover{path: path, fd: root}, nil
}

// A keptFile is a copy of a file's mount, to be put at the same place.
type keptFile struct {
	name string
	tree int
}

func closeAll(files []keptFile) {
	for _, f := range files {
		unix.Close(f.tree)
	}
}

func keepFiles(dir string) ([]keptFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var kept []keptFile
	for _, e := range entries {
		if !e.Type().IsRegular() || len(kept) == maxKept {
			continue
		}
		tree, err := cloneTree(dir + "/" + e.Name())
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			closeAll(kept)
			return nil, err
		}
		kept = append(kept, keptFile{e.Name(), tree})
	}
	return kept, nil
}

func (c cover) put(f keptFile) error {
	place, err := unix.Openat(c.fd, f.name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	if err := readOnly(f.tree); err != nil {
		return err
	}
	return attach(f.tree, place)
}

// openAs opens a path as root and, where root may not (a home directory on NFS
// or FUSE), as the user.
func openAs(path string, uid, gid int) (int, error) {
	const flags = unix.O_PATH | unix.O_CLOEXEC
	fd, err := unix.Open(path, flags, 0)
	if err != unix.EACCES || uid == 0 {
		return fd, err
	}
	oldGID, err := unix.SetfsgidRetGid(gid)
	if err != nil {
		return -1, err
	}
	defer unix.Setfsgid(oldGID)
	oldUID, err := unix.SetfsuidRetUid(uid)
	if err != nil {
		return -1, err
	}
	defer unix.Setfsuid(oldUID)
	return unix.Open(path, flags, 0)
}
