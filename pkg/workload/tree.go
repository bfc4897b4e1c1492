package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotSupported is wrapped by errors that say which part of the kernel
	// or of the host is missing.
	ErrNotSupported = errors.New("not supported")
	// ErrGone says that a cgroup or process is not there any more. A cgroup
	// made again under the same path is another one.
	ErrGone = errors.New("gone")
	// ErrFull says that a bound is reached and nothing was stored.
	ErrFull = errors.New("full")
)

const (
	// rootID is the inode number of the hierarchy's root cgroup: kernfs gives
	// its first node the id 1. Any other root is that of a cgroup namespace.
	rootID = 1
	// fileidKernfs is FILEID_KERNFS, the handle type of kernfs nodes (5.8).
	fileidKernfs = 0xfe
	// pathCache is how many id → path pairs a Tree remembers.
	pathCache = 4096
)

// A Tree is the cgroup2 hierarchy of this host as mounted in the caller's
// mount namespace. It is safe for concurrent use.
type Tree struct {
	point string
	root  *os.File
	paths *lru.Cache[uint64, string]
}

// A Resource says how full a bounded thing is.
type Resource struct {
	Name              string
	Entries, Capacity int
}

// FindTree opens the cgroup2 hierarchy wherever mountinfo has it. Errors wrap
// ErrNotSupported where there is none, or only the part of it that a cgroup
// namespace shows: levels and paths would then not be the kernel's.
func FindTree() (*Tree, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	var partial string
	for _, m := range mounts {
		if m.Type != "cgroup2" {
			continue
		}
		t, err := OpenTree(m.Point)
		if err == nil {
			return t, nil
		}
		partial = err.Error()
	}
	if partial != "" {
		return nil, fmt.Errorf("no usable cgroup2 mount: %s: %w", partial, ErrNotSupported)
	}
	return nil, fmt.Errorf("no cgroup2 file system is mounted: %w", ErrNotSupported)
}

// OpenTree opens the hierarchy mounted at point. It is an error if something
// else is mounted there, or not the hierarchy's root.
func OpenTree(point string) (*Tree, error) {
	root, err := os.OpenFile(point, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := checkRoot(root); err != nil {
		root.Close()
		return nil, err
	}
	paths, err := lru.New[uint64, string](pathCache)
	if err != nil {
		root.Close()
		return nil, err
	}
	return &Tree{point: point, root: root, paths: paths}, nil
}

// checkRoot demands the root directory of a cgroup2 file system.
func checkRoot(dir *os.File) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return fmt.Errorf("statfs %s: %w", dir.Name(), err)
	}
	if s.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s is not a cgroup2 file system: %w", dir.Name(), ErrNotSupported)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir.Name(), err)
	}
	if st.Ino != rootID {
		return fmt.Errorf("%s shows part of the hierarchy (a cgroup namespace): %w", dir.Name(), ErrNotSupported)
	}
	return nil
}

// Close gives back the descriptor. Cgroups of the tree must not be used after.
func (t *Tree) Close() error { return t.root.Close() }

// Point is the directory where the hierarchy is mounted.
func (t *Tree) Point() string { return t.point }

// Resources says how full the tree's memories are. When full, the pair unused
// for longest is forgotten and asked of the kernel again.
func (t *Tree) Resources() []Resource {
	return []Resource{{Name: "cgroup_paths", Entries: t.paths.Len(), Capacity: pathCache}}
}

// Cgroup is the existing cgroup at p, a path below the mount ("/" is the
// root). Errors wrap ErrGone where there is none.
func (t *Tree) Cgroup(p string) (Cgroup, error) {
	p, err := cleanPath(p)
	if err != nil {
		return Cgroup{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(t.root.Fd()), relative(p), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Cgroup{}, pathError("cgroup", p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return Cgroup{}, fmt.Errorf("cgroup %s: not a cgroup", p)
	}
	t.paths.Add(st.Ino, p)
	return Cgroup{tree: t, path: p, id: st.Ino}, nil
}

// Create makes the cgroup at p and the missing ones above it. An existing one
// is an error that wraps fs.ErrExist: who made it decides over it.
func (t *Tree) Create(p string) (Cgroup, error) {
	p, err := cleanPath(p)
	if err != nil {
		return Cgroup{}, err
	}
	names := strings.Split(strings.Trim(p, "/"), "/")
	for i := range names {
		at := strings.Join(names[:i+1], "/")
		err := unix.Mkdirat(int(t.root.Fd()), at, 0o755)
		if err == unix.EEXIST && i < len(names)-1 {
			continue
		}
		if err != nil {
			return Cgroup{}, pathError("create cgroup", "/"+at, err)
		}
	}
	return t.Cgroup(p)
}

// ByID is the cgroup with the kernel's id (bpf_get_current_cgroup_id, the
// directory's inode number). It needs CAP_DAC_READ_SEARCH unless the id was
// seen before. Errors wrap ErrGone where the cgroup was removed; a remembered
// path is still given then, since a cgroup never changes its path and no other
// one gets its id.
func (t *Tree) ByID(id uint64) (Cgroup, error) {
	if p, ok := t.paths.Get(id); ok {
		return Cgroup{tree: t, path: p, id: id}, nil
	}
	p, err := t.pathOf(id)
	if err != nil {
		return Cgroup{}, err
	}
	t.paths.Add(id, p)
	return Cgroup{tree: t, path: p, id: id}, nil
}

// Path is the path of the cgroup with that id, as ByID finds it.
func (t *Tree) Path(id uint64) (string, error) {
	c, err := t.ByID(id)
	return c.path, err
}

// pathOf asks the kernel: a kernfs handle is the 64-bit node id.
func (t *Tree) pathOf(id uint64) (string, error) {
	raw := make([]byte, 8)
	binary.NativeEndian.PutUint64(raw, id)
	fd, err := unix.OpenByHandleAt(int(t.root.Fd()), unix.NewFileHandle(fileidKernfs, raw), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		if err == unix.ESTALE || err == unix.ENOENT {
			err = ErrGone
		}
		return "", fmt.Errorf("cgroup id %d: %w", id, err)
	}
	defer unix.Close(fd)
	target, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("cgroup id %d: %w", id, err)
	}
	p, ok := strings.CutPrefix(target, t.point)
	if !ok || (p != "" && p[0] != '/') || strings.HasSuffix(p, " (deleted)") {
		return "", fmt.Errorf("cgroup id %d at %s: %w", id, target, ErrGone)
	}
	if p == "" {
		p = "/"
	}
	return p, nil
}

// OfProcess is the cgroup that the process is in now.
func (t *Tree) OfProcess(pid int) (Cgroup, error) {
	data, err := os.ReadFile(procFile(pid, "cgroup"))
	if err != nil {
		return Cgroup{}, pathError("process", strconv.Itoa(pid), err)
	}
	p, err := ParseProcCgroup(string(data))
	if err != nil {
		return Cgroup{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return t.Cgroup(p)
}

// ParseProcCgroup gives the cgroup2 path of a /proc/PID/cgroup (its line
// "0::PATH"). Errors wrap ErrGone for a cgroup removed under a dying process
// and ErrNotSupported where the line is missing or the path lies outside the
// reader's cgroup namespace.
func ParseProcCgroup(data string) (string, error) {
	for line := range strings.Lines(data) {
		p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		if strings.HasSuffix(p, " (deleted)") {
			return "", fmt.Errorf("cgroup %s: %w", p, ErrGone)
		}
		p, err := cleanPath(p)
		if err != nil {
			return "", fmt.Errorf("%w: %w", err, ErrNotSupported)
		}
		return p, nil
	}
	return "", fmt.Errorf("no cgroup2 line in /proc/PID/cgroup: %w", ErrNotSupported)
}

// cleanPath demands an absolute path without "..", which would lead out of the
// mount.
func cleanPath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("cgroup path %q does not begin with a slash", p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == ".." {
			return "", fmt.Errorf("cgroup path %q leads upwards", p)
		}
	}
	return path.Clean(p), nil
}

// relative is the path for the *at calls.
func relative(p string) string {
	if p == "/" {
		return "."
	}
	return p[1:]
}

func procFile(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

// pathError names the thing and maps "does not exist" to ErrGone.
func pathError(what, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%s %s: %w", what, name, ErrGone)
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}
