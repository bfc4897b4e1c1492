package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process ended before its namespace was certain.
var ErrGone = errors.New("the process has gone")

// InodeOf gives the inode number of a process's network namespace. The kernel
// uses a number again once its namespace is gone: it tells namespaces apart that
// exist now, and one that is held open from all others.
func InodeOf(pid int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(handle(pid), &st)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Stat(threadHandle(pid), &st)
	}
	if err != nil {
		return 0, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	return st.Ino, nil
}

// handle is the network namespace of a process's first thread.
func handle(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/net" }

// threadHandle is the network namespace of a thread that lives. The first thread
// may have ended (pthread_exit(3) in main) and then shows none, while the process
// goes on.
func threadHandle(pid int) string {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return handle(pid)
	}
	for _, t := range threads {
		path := tasks + "/" + t.Name() + "/ns/net"
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return handle(pid)
}

// Inode gives the inode number of an open namespace.
func Inode(ns *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	return st.Ino, nil
}

// OpenProven opens the network namespace of a process, of which proof must hold.
// A pidfd is held over both: what proof looked at and whose namespace was opened
// are the same process. It returns ErrGone where that ended meanwhile.
func OpenProven(pid int, proof func() error) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	} else if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(pidfd)
	ns, err := OpenPID(pid)
	if err != nil {
		if ended(pidfd) {
			err = ErrGone
		}
		return nil, err
	}
	if err := proof(); err != nil {
		ns.Close()
		return nil, err
	}
	if ended(pidfd) {
		ns.Close()
		return nil, ErrGone
	}
	return ns, nil
}

// ended reports whether the process of a pidfd has ended, which is when the
// descriptor becomes readable. Unsure is ended.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n != 0 || err != nil
	}
}

// SameRuler reports whether the namespace is ruled from the user namespace of
// this process: whoever has the capabilities there has them here too. In another
// one a user without any right on the host may be root.
func SameRuler(ns *os.File) (bool, error) {
	ruler, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return false, nil // it is none of ours and none below
	} else if err != nil {
		return false, fmt.Errorf("network namespace: %w", os.NewSyscallError("ioctl NS_GET_USERNS", err))
	}
	defer unix.Close(ruler)
	var theirs, ours unix.Stat_t
	if err := unix.Fstat(ruler, &theirs); err != nil {
		return false, fmt.Errorf("user namespace: %w", err)
	}
	if err := unix.Stat("/proc/self/ns/user", &ours); err != nil {
		return false, fmt.Errorf("own user namespace: %w", err)
	}
	return theirs.Ino == ours.Ino && theirs.Dev == ours.Dev, nil
}
