package confine

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Devices through which packets reach a network without a socket
// (Documentation/admin-guide/devices.txt, major 10).
const (
	miscMajor  = 10
	tunMinor   = 200
	vhostNet   = 238
	vhostVsock = 241
)

// inherited is what the command gets beside 0, 1 and 2 and needs care.
type inherited struct {
	// directories were opened in the caller's mount namespace and show its
	// mounts: they are opened again behind the new ones.
	directories []int
}

// CheckDescriptors looks at the descriptors that would survive execve. Errors
// wrap ErrDescriptor and name each descriptor and its kind: an internet or
// packet socket (its traffic is another cgroup's), an io_uring (makes sockets
// without system calls), a tunnel device, or a cgroup control file.
func CheckDescriptors() error {
	_, err := inheritedDescriptors()
	return err
}

func inheritedDescriptors() (inherited, error) {
	const op = "descriptors"
	dir, err := os.Open(proc + "fd")
	if err != nil {
		return inherited{}, failed(op, "", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return inherited{}, failed(op, "", err)
	}
	var found inherited
	var refused []string
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return inherited{}, failed(op, name, err)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == unix.EBADF || err == nil && flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		if err != nil {
			return inherited{}, failed(op, name, err)
		}
		directory, reason, err := judge(fd)
		if err != nil {
			return inherited{}, failed(op, name, err)
		}
		if reason != "" {
			refused = append(refused, fmt.Sprintf("%d is %s", fd, reason))
		}
		if directory {
			found.directories = append(found.directories, fd)
		}
	}
	if len(refused) > 0 {
		return inherited{}, failed(op, strings.Join(refused, ", "), ErrDescriptor)
	}
	return found, nil
}

// judge says why the command must not have a descriptor, "" if it may.
func judge(fd int) (directory bool, reason string, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, "", err
	}
	open, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return false, "", err
	}
	pathOnly := open&unix.O_PATH != 0
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		if pathOnly {
			// connect(2) to /proc/self/fd/N would go around what hides it.
			return false, "the path of a socket", nil
		}
		reason, err := judgeSocket(fd)
		return false, reason, err
	case unix.S_IFCHR:
		if unix.Major(st.Rdev) == miscMajor {
			switch unix.Minor(st.Rdev) {
			case tunMinor, vhostNet, vhostVsock:
				return false, "a network device", nil
			}
		}
	case unix.S_IFDIR:
		return true, "", nil
	case unix.S_IFREG:
		reason, err := judgeFile(fd)
		return false, reason, err
	case 0: // anonymous inodes have no type
		target, err := os.Readlink(proc + "fd/" + strconv.Itoa(fd))
		if err != nil {
			return false, "", err
		}
		if target == "anon_inode:[io_uring]" {
			return false, "an io_uring", nil
		}
	}
	return false, "", nil
}

func judgeSocket(fd int) (string, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return "", err
	}
	switch domain {
	case unix.AF_UNIX, unix.AF_NETLINK:
		return "", nil
	case unix.AF_INET, unix.AF_INET6:
		return "an internet socket", nil
	}
	return "a socket of family " + strconv.Itoa(domain), nil
}

// judgeFile refuses control files, also those open for reading: a read-only
// mount does not bind what was opened before it, nor what is opened again
// through /proc/self/fd.
func judgeFile(fd int) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", err
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC || fs.Type == unix.CGROUP_SUPER_MAGIC {
		return "a cgroup control file", nil
	}
	return "", nil
}
