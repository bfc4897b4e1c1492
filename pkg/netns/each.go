package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// Each calls fn with every network namespace that a process of this host is in,
// and with those at the paths given (bind mounts of namespaces that may have no
// process), each once and open for the time of the call. It goes on after an error
// and joins them. A namespace that ends meanwhile is passed over. It needs
// CAP_SYS_PTRACE.
func Each(paths []string, fn func(ns *os.File) error) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if _, err := os.Stat(handle(pid)); err == nil {
				paths = append(paths, handle(pid))
			} else {
				paths = append(paths, threadHandle(pid))
			}
		}
	}
	var errs []error
	seen := make(map[uint64]bool)
	for _, path := range paths {
		ns, err := Open(path)
		if err != nil {
			continue // a process that has ended, or one without (a kernel thread of old kernels)
		}
		inode, err := Inode(ns)
		if err == nil && !seen[inode] {
			seen[inode] = true
			err = fn(ns)
		}
		ns.Close()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
