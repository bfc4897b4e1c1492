package keeper

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// A cgroupWatch gives a notice when a cgroup is made in one that it watches
// (inotify(7): the cgroup file system tells of mkdir(2)). Where the user's limit of
// watches is reached, notices are missing and the ticks find what is new.
type cgroupWatch struct {
	fd   int
	file *os.File

	mu  sync.Mutex
	wds map[uint64]int
}

func newCgroupWatch() (*cgroupWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch cgroups: %w", err)
	}
	return &cgroupWatch{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), wds: make(map[uint64]int)}, nil
}

func (w *cgroupWatch) close() { w.file.Close() }

// run passes notices on until close; those that come together are one.
func (w *cgroupWatch) run(notices chan<- struct{}) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		select {
		case notices <- struct{}{}:
		default:
		}
	}
}

// add watches a cgroup, if it is not watched.
func (w *cgroupWatch) add(cg workload.Cgroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.wds[cg.ID()]; ok {
		return
	}
	if wd, err := unix.InotifyAddWatch(w.fd, cg.Dir(), unix.IN_CREATE|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW); err == nil {
		w.wds[cg.ID()] = wd
	}
}

// keep forgets the cgroups that are not in the set. Those that are gone the kernel
// has forgotten; the others are captured, or below what is.
func (w *cgroupWatch) keep(seen map[uint64]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, wd := range w.wds {
		if !seen[id] {
			unix.InotifyRmWatch(w.fd, uint32(wd))
			delete(w.wds, id)
		}
	}
}
