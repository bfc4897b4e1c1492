package foreign

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// A process that was just forked has what its parent has open until it executes: a
// service manager's child, which is in the unit's cgroup from its first instant, the
// host's socket units; a child of our own our listeners. None of that is the
// workload's, and what is destroyed would be its parent's.
//
// The kernel gives the process its new file and memory some time before it closes what
// is to be closed (begin_new_exec), and what is known of a process is older than what
// follows from it. So one that has executed is believed to have done so just now: while
// it is young, and until the second look that sees it.

// freshFor is how long after its start a process is given to execute.
const freshFor = 2 * time.Second

// freshOfInit is the same for a child of PID 1. Until it executes it runs systemd's
// own code, and what it has are the host's sockets, sshd's among them: on a starved
// host they must not be lost.
const freshOfInit = 30 * time.Second

// An origin is what is known of where a process comes from.
type origin struct {
	// parent is 0 if it is in the cgroup of the process, below, or not known.
	parent int
	// fresh says that the process may still have what its parent has.
	fresh bool
}

// originOf learns it. It is asked before anything is taken of the process: once that has
// ended, its parent is not known. before has the processes that had not executed at the
// last look; one that has not at this look is put into now.
func (h *holder) originOf(before, now map[int]struct{}) origin {
	age, parent, err := workload.AgeOf(h.pid)
	if err != nil {
		return origin{}
	}
	if at, err := os.ReadFile("/proc/" + strconv.Itoa(parent) + "/cgroup"); err != nil {
		return origin{}
	} else if path, err := workload.ParseProcCgroup(string(at)); err != nil || path == h.cgroup.Path() || strings.HasPrefix(path, h.cgroup.Path()+"/") {
		return origin{}
	}
	if inTime(age, parent) && !executed(h.pid, parent) {
		now[h.pid] = struct{}{}
		return origin{parent: parent, fresh: true}
	}
	_, just := before[h.pid]
	return origin{parent: parent, fresh: just || age <= freshFor}
}

// inTime reports whether a process of that age may not have executed yet. Our own
// children (the self-probe, commands of exec) take as long as the host lets them:
// nobody else makes them wait.
func inTime(age time.Duration, parent int) bool {
	return age <= freshFor || parent == os.Getpid() || parent == 1 && age <= freshOfInit
}

// executed reports whether a process has executed since its parent forked it, as far as
// that can be told.
func executed(pid, parent int) bool {
	if parent == os.Getpid() {
		// Go's children have their parent's memory until they execute (CLONE_VM), and
		// never again. What they run tells less: a program can execute our file.
		order, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(parent), uintptr(pid), kcmpVM, 0, 0, 0)
		if e == 0 {
			return order != 0
		}
	}
	return !sameFile("/proc/"+strconv.Itoa(pid)+"/exe", "/proc/"+strconv.Itoa(parent)+"/exe")
}

// inherits reports whether a descriptor is one that a process has from its parent, and
// has only until it executes. The parent is not in the workload, the descriptor is
// closed on exec, and the parent has the same socket under the same number: one that
// was received after the fork it does not have.
func (h *holder) inherits(e entry) bool {
	parent := h.origin.parent
	if e.fd < 0 || parent == 0 || parent == os.Getpid() && e.fd == e.taken {
		return false
	}
	return has(parent, e) && h.closesOnExec(e)
}

// forked reports whether a descriptor is the parent's of a process that has not
// executed yet, or just did.
func (h *holder) forked(e entry) bool { return h.origin.fresh && h.inherits(e) }

// lent reports whether a socket is also that of a process which must not lose it,
// PID 1 or our own: then whoever has it in a workload is ended, and it stays.
func (h *holder) lent(e entry) bool {
	parent := h.origin.parent
	return (parent == 1 || parent == os.Getpid()) && h.inherits(e)
}

// has reports whether a process has a socket under the number of e.
func has(pid int, e entry) bool {
	target, err := os.Readlink(threadFile(pid, pid, "fd/"+strconv.Itoa(e.fd)))
	return err == nil && target == "socket:["+strconv.FormatUint(uint64(e.inode), 10)+"]"
}

// closesOnExec reports whether executing closes the descriptor, or has just done.
func (h *holder) closesOnExec(e entry) bool {
	data, err := os.ReadFile(threadFile(h.pid, e.tid, "fdinfo/"+strconv.Itoa(e.fd)))
	if gone(err) {
		// It has executed or ended since the descriptor was taken, which closed it. One that it
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
