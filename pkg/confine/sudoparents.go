package confine

import (
	"os"

	"golang.org/x/sys/unix"
)

// SudoParents gives pidfds of the sudo processes that wait for this one: its
// parent and, where sudo runs a monitor between itself and a terminal, that
// one's parent. A sudo further up started a shell, not this process. The
// caller closes them.
func SudoParents() ([]*os.File, error) {
	var found []*os.File
	pid := os.Getppid()
	for range maxAncestors {
		if pid <= 1 {
			break
		}
		a, err := openAncestor(pid)
		if err != nil {
			break // it ended just now, and we have another parent
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil || !a.isSudo() {
			a.dir.Close()
			if err == nil {
				unix.Close(fd)
			}
			break
		}
		found = append(found, os.NewFile(uintptr(fd), "pidfd"))
		pid, err = a.parent()
		a.dir.Close()
		if err != nil {
			break
		}
	}
	return found, nil
}
