package foreign

import (
	"errors"
	"os"
	"strings"

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
	origin origin
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
