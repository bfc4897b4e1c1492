package keeper

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

// maxProcessSockets bounds the sockets of a process that `tag pid` looks at.
const maxProcessSockets = 65536

// internetSockets names the internet sockets among the descriptors of a process.
// One that cannot be looked at (of a thread with descriptors of its own) counts:
// nobody knows where it leads.
func internetSockets(pidfd *os.File, pid int) ([]string, error) {
	root := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	var found []string
	// The process's own table first: its descriptors can be taken.
	slices.SortFunc(threads, func(a, b os.DirEntry) int {
		switch leader := strconv.Itoa(pid); {
		case a.Name() == leader:
			return -1
		case b.Name() == leader:
			return 1
		}
		return strings.Compare(a.Name(), b.Name())
	})
	for _, thread := range threads {
		dir := root + "/" + thread.Name() + "/fd"
		descriptors, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		} else if err != nil {
			return nil, err
		}
		for _, d := range descriptors {
			target, err := os.Readlink(dir + "/" + d.Name())
			if err != nil || !strings.HasPrefix(target, "socket:[") || seen[target] {
				continue
			}
			seen[target] = true
			if len(seen) > maxProcessSockets {
				return nil, fmt.Errorf("it has more than %d sockets", maxProcessSockets)
			}
			n, err := strconv.Atoi(d.Name())
			if err != nil {
				return nil, err
			}
			name, internet, err := judgeSocket(pidfd, n, thread.Name() == strconv.Itoa(pid))
			if err != nil {
				return nil, fmt.Errorf("descriptor %d: %w", n, err)
			}
			if internet {
				found = append(found, name+" (descriptor "+d.Name()+")")
			}
		}
	}
	return found, nil
}

// judgeSocket describes one descriptor of the process, if it is an internet
// socket.
func judgeSocket(pidfd *os.File, n int, own bool) (string, bool, error) {
	if !own {
		return "a socket of a thread with descriptors of its own", true, nil
	}
	fd, err := unix.PidfdGetfd(int(pidfd.Fd()), n, 0)
	if errors.Is(err, unix.EBADF) {
		return "", false, nil // closed in between
	} else if err != nil {
		return "", false, os.NewSyscallError("pidfd_getfd", err)
	}
	defer unix.Close(fd)
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return "", false, os.NewSyscallError("SO_DOMAIN", err)
	}
	switch domain {
	case unix.AF_UNIX, unix.AF_NETLINK:
		return "", false, nil
	case unix.AF_INET, unix.AF_INET6:
		s, err := netns.SocketOf(fd)
		if err != nil {
			return "an internet socket", true, nil
		}
		return s.String(), true, nil
	}
	return fmt.Sprintf("a socket of family %d", domain), true, nil
}
