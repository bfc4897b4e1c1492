package workload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Cgroup is one cgroup2, known by its id. Every method opens the directory
// and compares the id first, so that a cgroup made again under the same path
// is never taken for it; such calls fail with ErrGone.
type Cgroup struct {
	tree *Tree
	path string
	id   uint64
}

// Path is the path below the mount, with a leading slash.
func (c Cgroup) Path() string { return c.path }

// ID is the directory's inode number, which is what
// bpf_get_current_cgroup_id and nft's `socket cgroupv2` give.
func (c Cgroup) ID() uint64 { return c.id }

// Level is the depth below the root, which is 0, as nft and
// bpf_get_current_ancestor_cgroup_id count it.
func (c Cgroup) Level() int {
	if c.path == "/" {
		return 0
	}
	return strings.Count(c.path, "/")
}

// Dir is the directory in the file system.
func (c Cgroup) Dir() string {
	if c.path == "/" {
		return c.tree.point
	}
	return c.tree.point + c.path
}

// Open gives the directory, for CLONE_INTO_CGROUP and for attaching programs.
func (c Cgroup) Open() (*os.File, error) {
	fd, err := unix.Openat(int(c.tree.root.Fd()), relative(c.path), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, pathError("cgroup", c.path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, pathError("cgroup", c.path, err)
	}
	if st.Ino != c.id {
		unix.Close(fd)
		return nil, fmt.Errorf("cgroup %s was made again: %w", c.path, ErrGone)
	}
	return os.NewFile(uintptr(fd), c.Dir()), nil
}

// Move puts a process with all its threads into the cgroup; pid 0 is the
// caller. The process keeps the sockets that it has: they stay with the cgroup
// that made them.
func (c Cgroup) Move(pid int) error {
	if err := c.write("cgroup.procs", strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("move process %d to cgroup %s: %w", pid, c.path, err)
	}
	return nil
}

// Procs are the processes of this cgroup, without those of its children; a
// process of another pid namespace is 0.
func (c Cgroup) Procs() ([]int, error) {
	data, err := c.read("cgroup.procs")
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(data) {
		pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("cgroup %s: cgroup.procs: %q is not a pid", c.path, line)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Populated says whether a process lives in the cgroup or below it. The root
// cgroup has no such file and is always populated.
func (c Cgroup) Populated() (bool, error) {
	if c.path == "/" {
		return true, nil
	}
	data, err := c.read("cgroup.events")
	if err != nil {
		return false, err
	}
	return parsePopulated(data)
}

// parsePopulated reads cgroup.events, which is "KEY VALUE" lines.
func parsePopulated(data string) (bool, error) {
	for line := range strings.Lines(data) {
		switch strings.TrimSuffix(line, "\n") {
		case "populated 0":
			return false, nil
		case "populated 1":
			return true, nil
		}
	}
	return false, errors.New("cgroup.events says nothing of `populated`")
}

// Descendants is how many cgroups are below, at any depth.
func (c Cgroup) Descendants() (int, error) {
	data, err := c.read("cgroup.stat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(data) {
		if n, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "nr_descendants "); ok {
			return strconv.Atoi(n)
		}
	}
	return 0, errors.New("cgroup.stat says nothing of `nr_descendants`")
}

// Children are the cgroups directly below.
func (c Cgroup) Children() ([]Cgroup, error) {
	dir, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, pathError("cgroup", c.path, err)
	}
	var children []Cgroup
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		child, err := c.tree.Cgroup(strings.TrimSuffix(c.path, "/") + "/" + e.Name())
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		children = append(children, child)
	}
	return children, nil
}

// maxControl bounds what is read of a control file: 1 MiB is 130,000 pids.
const maxControl = 1 << 20

func (c Cgroup) read(name string) (string, error) {
	f, err := c.open(name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxControl+1))
	if err != nil {
		return "", pathError("cgroup", c.path, err)
	}
	if len(data) > maxControl {
		return "", fmt.Errorf("cgroup %s: %s is over %d bytes", c.path, name, maxControl)
	}
	return string(data), nil
}

func (c Cgroup) write(name, value string) error {
	f, err := c.open(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return pathError("cgroup", c.path, err)
	}
	return nil
}

// open opens a control file below the verified directory.
func (c Cgroup) open(name string, flags int) (*os.File, error) {
	dir, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %s: %w", c.path, name, err)
	}
	return os.NewFile(uintptr(fd), c.Dir()+"/"+name), nil
}
