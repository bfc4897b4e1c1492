package confine

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Inherited gives the descriptors that a command started now would inherit, by
// rising number: those without close-on-exec. They stay the process's own;
// closing one closes the inherited descriptor.
func Inherited() ([]*os.File, error) {
	dir, err := os.Open(proc + "fd")
	if err != nil {
		return nil, failed("descriptors", "", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, failed("descriptors", "", err)
	}
	var numbers []int
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return nil, failed("descriptors", name, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			numbers = append(numbers, fd)
		}
	}
	slices.Sort(numbers)
	files := make([]*os.File, len(numbers))
	for i, fd := range numbers {
		files[i] = os.NewFile(uintptr(fd), "fd "+strconv.Itoa(fd))
	}
	return files, nil
}
