package foreign

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// A holder is a process with a descriptor that has to be judged.
type holder struct {
	cgroup workload.Cgroup
	pid    int
	pidfd  int
	uid    uint32
	exe    string
	// fresh says, once asked, whether the process may not have executed yet; parent is
	// the process that it was forked from then.
	asked, fresh bool
	parent       int
}

// openHolder makes sure that pid is a process of the cgroup: its number may have
// become another's since it was read.
func openHolder(tree *workload.Tree, cg workload.Cgroup, pid int) (*holder, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	h := &holder{cgroup: cg, pid: pid, pidfd: pidfd}
	at, err := tree.OfProcess(pid)
	// A process whose threads are in threaded cgroups is listed above them. One that
	// moved on is seen by who looks at its new place.
	if err == nil && at.ID() != cg.ID() && !strings.HasPrefix(at.Path(), cg.Path()+"/") {
		err = unix.ESRCH
	}
	if err == nil {
		err = h.lives()
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *holder) close() { _ = unix.Close(h.pidfd) }

// lives fails with ESRCH once the process has been reaped.
func (h *holder) lives() error {
	if err := unix.PidfdSendSignal(h.pidfd, 0, nil, 0); !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// take duplicates a descriptor of the process.
func (h *holder) take(e entry) (int, error) {
	if e.tid == h.pid {
		return unix.PidfdGetfd(h.pidfd, e.fd, 0)
	}
	thread, err := unix.PidfdOpen(e.tid, pidfdThread)
	if err != nil {
		return -1, err
	}
	defer unix.Close(thread)
	// A number that has become another's is not one of this process's threads.
	if _, err := os.Stat(threadFile(h.pid, e.tid, "fd")); err != nil {
		return -1, err
	}
	return unix.PidfdGetfd(thread, e.fd, 0)
}

// kill ends the process.
func (h *holder) kill() error { return unix.PidfdSendSignal(h.pidfd, unix.SIGKILL, nil, 0) }

// describe learns what the audit tells.
func (h *holder) describe() {
	if h.exe != "" {
		return
	}
	if p, err := workload.LookUp(h.pid); err == nil {
		h.uid, h.exe = p.UID, p.Exe
	}
}

// freshFor is how long after its start a process is given to execute.
const freshFor = 2 * time.Second

// freshOfInit is the same for a child of PID 1. Until it executes it runs systemd's
// own code, and what it has are the host's sockets, sshd's among them: on a starved
// host they must not be lost.
const freshOfInit = 30 * time.Second

// inTime reports whether a process of that age may not have executed yet. Our own
// children (the self-probe, commands of exec) take as long as the host lets them:
// nobody else makes them wait, and what they have until then are our listeners.
func inTime(age time.Duration, parent int) bool {
	return age <= freshFor || parent == os.Getpid() || parent == 1 && age <= freshOfInit
}

// forked reports whether the descriptor is one that a process has only because it
// was forked and has not executed yet: a service manager's child that is in the
// unit's cgroup from its first instant, or our own. What its parent has open (the
// host's socket units, our listeners) is closed as soon as it executes, and must
// not be destroyed. Such a process is young, runs its parent's file, its parent is
// not tagged, the descriptor is closed on exec, and the parent has the same socket
// under the same number: one that was received after the fork it does not have.
func (h *holder) forked(e entry) bool {
	if !h.asked {
		h.asked, h.fresh = true, h.notExecuted()
	}
	return h.fresh && e.fd >= 0 && has(h.parent, e) && h.closesOnExec(e)
}

// has reports whether a process has a socket under the number of e.
func has(pid int, e entry) bool {
	target, err := os.Readlink(threadFile(pid, pid, "fd/"+strconv.Itoa(e.fd)))
	return err == nil && target == "socket:["+strconv.FormatUint(uint64(e.inode), 10)+"]"
}

// closesOnExec reports whether executing closes the descriptor, or has just done.
func (h *holder) closesOnExec(e entry) bool {
	data, err := os.ReadFile(threadFile(h.pid, e.tid, "fdinfo/"+strconv.Itoa(e.fd)))
	if errors.Is(err, fs.ErrNotExist) {
		// It has executed since the descriptor was taken, which closed it. One that it
		// has under another number is found at the next look.
		return true
	} else if err != nil {
		return false
	}
	field := func(name string, base int) (uint64, bool) {
		_, value, _ := strings.Cut(string(data), name+":")
		value, _, _ = strings.Cut(value, "\n")
		n, err := strconv.ParseUint(strings.TrimSpace(value), base, 64)
		return n, err == nil
	}
	if inode, ok := field("ino", 10); ok && e.inode != 0 && inode != uint64(e.inode) {
		return true // the same, and the number is another file's by now
	}
	flags, ok := field("flags", 8)
	return ok && flags&unix.O_CLOEXEC != 0
}

func (h *holder) notExecuted() bool {
	age, parent, err := workload.AgeOf(h.pid)
	if err != nil || !inTime(age, parent) {
		return false
	}
	if at, err := os.ReadFile("/proc/" + strconv.Itoa(parent) + "/cgroup"); err != nil {
		return false
	} else if path, err := workload.ParseProcCgroup(string(at)); err != nil || path == h.cgroup.Path() || strings.HasPrefix(path, h.cgroup.Path()+"/") {
		return false
	}
	h.parent = parent
	if parent == os.Getpid() {
		// Go's children have their parent's memory until they execute (CLONE_VM), and
		// never again. What they run tells less: a program can execute our file.
		order, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(parent), uintptr(h.pid), kcmpVM, 0, 0, 0)
		if e == 0 {
			return order == 0
		}
	}
	return sameFile("/proc/"+strconv.Itoa(h.pid)+"/exe", "/proc/"+strconv.Itoa(parent)+"/exe")
}

// sameFile reports whether two paths lead to one file. No server of a file system is
// asked: it may be the workload's own, and never answer.
func sameFile(a, b string) bool {
	var one, other unix.Statx_t
	for path, st := range map[string]*unix.Statx_t{a: &one, b: &other} {
		if unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, st) != nil {
			return false
		}
	}
	return one.Dev_major == other.Dev_major && one.Dev_minor == other.Dev_minor && one.Ino == other.Ino
}
