package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rootID is the id of the root of a cgroup2 hierarchy: the first inode of its
// kernfs (fs/kernfs/dir.c).
const rootID = 1

// kernfsHandle is FILEID_KERNFS (include/linux/exportfs.h): a file handle that is
// the 64-bit id alone.
const kernfsHandle = 0xfe

// maxLevel is the deepest level at which a cgroup can be tagged; struct sp_config
// has one bit for each.
const maxLevel = 31

// checkRoot demands the true root of the hierarchy: in a cgroup namespace levels
// would be counted from elsewhere than the kernel counts them.
func checkRoot(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("datapath: cgroup root %s: %w", dir, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("datapath: %s is not a cgroup2 mount", dir)
	}
	id, err := cgroupIDOf(dir)
	if err != nil {
		return err
	}
	if id != rootID {
		return fmt.Errorf("datapath: %s is not the root of the cgroup2 hierarchy", dir)
	}
	return nil
}

// cgroupID gives the id that bpf_get_current_cgroup_id gives: the inode number.
func cgroupID(dir *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("datapath: cgroup %s: %w", dir.Name(), err)
	}
	return st.Ino, nil
}

func cgroupIDOf(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("datapath: cgroup %s: %w", dir, err)
	}
	return st.Ino, nil
}

// levelOf counts the levels between the root and the directory.
func levelOf(root, dir string) (uint32, error) {
	rel, err := filepath.Rel(root, dir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return 0, fmt.Errorf("datapath: cgroup %s is not below %s", dir, root)
	}
	if rel == "." {
		return 0, errors.New("datapath: the root of the hierarchy cannot be tagged")
	}
	level := uint32(strings.Count(rel, "/")) + 1
	if level > maxLevel {
		return 0, fmt.Errorf("datapath: cgroup %s is at level %d; the deepest that can be tagged is %d", dir, level, maxLevel)
	}
	return level, nil
}

// cgroupPath gives the directory of the cgroup with this id; os.ErrNotExist where
// it is gone.
func cgroupPath(root string, id uint64) (string, error) {
	mount, err := os.Open(root)
	if err != nil {
		return "", fmt.Errorf("datapath: cgroup root: %w", err)
	}
	defer mount.Close()
	handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return "", fmt.Errorf("datapath: cgroup %d: %w", id, os.ErrNotExist)
	}
	if err != nil {
		return "", fmt.Errorf("datapath: cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("datapath: cgroup %d: %w", id, err)
	}
	return path, nil
}
