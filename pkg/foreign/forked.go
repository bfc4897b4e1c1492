package foreign

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// A process that was just forked has what its parent has open until it executes: a
// service manager's child, which is in the unit's cgroup from its first instant, the
// host's socket units; a child of our own our listeners. None of that is the
// workload's, and what is destroyed would be its parent's.
//
// When it executes, the kernel gives the process its new file and memory first, then
// takes the mark from the descriptors that are to be closed, and closes them one by one
// (begin_new_exec, do_close_on_exec); and what is known of a process is older than what
// follows from it. So one that has executed is taken for one that just did while it is
// young, and at the first look after one that saw it before.

const (
	// freshFor is how long after its start a process is given to execute.
	freshFor = 2 * time.Second
	// freshOfInit is the same for a child of PID 1. Until it executes it runs systemd's
	// own code, and what it has are the host's sockets, sshd's among them: on a starved
	// host they must not be lost.
	freshOfInit = 30 * time.Second
	// spareFor is how long one socket may be in processes that are that young, one
	// after the other; spareAgain after which time without one that begins anew.
	spareFor, spareAgain = 2 * freshFor, freshFor
)

// An origin is where a process comes from.
type origin struct {
	// parent is 0 if it is in the workload too, or not known.
	parent int
	// patience is how long what the parent has is left alone in the process: 0 if it
	// has executed long ago.
	patience time.Duration
	// ours says that all it has is our own: our child that has not executed for sure.
	ours bool
}

// originOf learns where the process comes from. It is asked before anything is taken of
// it: once the process has ended, its parent is not known. root is the workload's
// cgroup. before has the processes that had not executed at the last look; one that has
// not at this look is put into now.
func (h *holder) originOf(root string, before, now map[int]struct{}) origin {
	age, parent, err := workload.AgeOf(h.pid)
	if err != nil {
		return origin{}
	}
	if at, err := os.ReadFile("/proc/" + strconv.Itoa(parent) + "/cgroup"); err != nil {
		return origin{}
	} else if path, err := workload.ParseProcCgroup(string(at)); err != nil || path == root || strings.HasPrefix(path, root+"/") {
		return origin{}
	}
	o := origin{parent: parent}
	unexecuted, sure := false, false
	if inTime(age, parent) {
		unexecuted, sure = notExecuted(h.pid, parent)
	}
	if unexecuted {
		now[h.pid] = struct{}{}
	}
	_, just := before[h.pid]
	switch {
	case !unexecuted && !just && age > freshFor:
	case unexecuted && sure:
		o.ours = true
	case unexecuted && parent == 1:
		o.patience = freshOfInit
	default:
		o.patience = spareFor
	}
	return o
}

// inTime reports whether a process of that age may not have executed yet. Our own
// children (the self-probe, commands of exec) take as long as the host lets them.
func inTime(age time.Duration, parent int) bool {
	return age <= freshFor || parent == os.Getpid() || parent == 1 && age <= freshOfInit
}

// notExecuted reports whether a process has not executed since its parent forked it, and
// whether that is sure: what it has then is a child's of our own.
func notExecuted(pid, parent int) (unexecuted, sure bool) {
	if parent == os.Getpid() {
		// Go's children have their parent's memory until they execute (CLONE_VM), and
		// never again. What they run tells less: a program can execute our file.
		order, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(parent), uintptr(pid), kcmpVM, 0, 0, 0)
		if e == 0 {
			return order == 0, true
		}
	}
	return sameFile("/proc/"+strconv.Itoa(pid)+"/exe", "/proc/"+strconv.Itoa(parent)+"/exe"), false
}

// A claim is what the parent of a process has to do with a socket that it holds.
type claim int

const (
	// none: the parent is in the workload, or has not got it.
	none claim = iota
	// parents: the process has it from its parent and has not executed, or just did.
	parents
	// lent: the process has it for longer, but it is PID 1's or our own, who must not
	// lose it: the process is ended instead.
	lent
)

// claim tells of a descriptor. What a process received after the fork its parent does
// not have under the same number.
func (l *look) claim(h *holder, e entry) claim {
	if h.origin.ours {
		return parents
	}
	if e.fd <= unix.Stderr || h.origin.parent == 0 {
		return none
	}
	ours := h.origin.parent == os.Getpid()
	if _, taken := l.s.taken[e.fd]; taken && ours || !has(h.origin.parent, e) {
		return none
	}
	switch {
	case ours && h.origin.patience > 0: // no process gets hold of what we have
		return parents
	case l.share.spares(e.inode, h.origin.patience, time.Now()):
		return parents
	case ours, h.origin.parent == 1:
		return lent
	}
	return none
}

// sparesListener reports whether a listener is left alone that a child of ours may have
// had, before it executed, because we had just taken it from another child.
func (l *look) sparesListener(h *holder, e entry) bool {
	return h.origin.parent == os.Getpid() && e.fd > unix.Stderr && l.share.spares(e.inode, h.origin.patience, time.Now())
}

// stays reports whether a connection or listener is not to be destroyed, and ends the
// process where it is not the process's to keep.
func (l *look) stays(h *holder, e entry, kind string, s netns.Socket) (bool, error) {
	switch l.claim(h, e) {
	case parents:
		return true, nil
	case lent:
		return true, l.end(h, e, kind, s)
	}
	return s.Listening() && l.sparesListener(h, e), nil
}

// A sparing is since when a socket was left alone, and when last.
type sparing struct{ first, last time.Time }

// spares reports whether a socket is left alone once more. A process can pass what it
// has from its parent on to ever younger ones (CLONE_PARENT): that has an end.
func (sh *share) spares(inode uint32, patience time.Duration, now time.Time) bool {
	if patience == 0 {
		return false
	}
	s, known := sh.spared[inode]
	if !known || now.Sub(s.last) > spareAgain {
		s.first = now
	}
	s.last = now
	sh.spared[inode] = s
	return now.Sub(s.first) <= patience
}

// forgetSpared drops what was left alone some time ago.
func (sh *share) forgetSpared(now time.Time) {
	for inode, s := range sh.spared {
		if now.Sub(s.last) > spareAgain {
			delete(sh.spared, inode)
		}
	}
}

// has reports whether a process has a socket under the number of e.
func has(pid int, e entry) bool {
	target, err := os.Readlink(threadFile(pid, pid, "fd/"+strconv.Itoa(e.fd)))
	return err == nil && target == "socket:["+strconv.FormatUint(uint64(e.inode), 10)+"]"
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
