// Package file is the privileged half of the audit's file sink: it makes the
// file, puts it aside when it is full, and hands out descriptors that only
// append. It writes no line and reads none, except to find the end of the last
// whole one.
package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Options says which file.
type Options struct {
	// Path is the audit file. Its directory is made, with mode 0750, if it does
	// not exist; links in the directory's path are followed, one in the place of
	// the file is refused.
	Path string
	// Dir is the directory of Path where it is open already, and taken over by Open;
	// nil: it is opened by its name, with the rights of this process.
	Dir *os.File
	// Mode of files that are made; default 0640. An existing file keeps its own,
	// unless others may write to it: then it is refused.
	Mode uint32
	// UID and GID own the files that are made; -1 leaves the process's own. For
	// `exec` it is the caller.
	UID, GID int
	// MaxFiles is how many rotated files stay: path.1 (the newest) … path.N.
	// With 0 a full file is removed.
	MaxFiles int
}

// Files is the audit file and its predecessors. Its methods may be called from
// any goroutine.
type Files struct {
	o    Options
	base string

	mu  sync.Mutex
	dir *os.File
}

// ErrUnsafe: the file or its directory could be exchanged or written by
// somebody who has no right to the audit.
var ErrUnsafe = errors.New("unsafe audit file")

// Open opens the directory and makes the file if there is none. Close leaves
// everything in place.
func Open(o Options) (*Files, error) {
	if o.Mode == 0 {
		o.Mode = 0o640
	}
	if o.MaxFiles < 0 {
		return nil, fmt.Errorf("audit file %s: max_files is %d", o.Path, o.MaxFiles)
	}
	dirName, base := filepath.Split(o.Path)
	if dirName == "" {
		dirName = "."
	}
	if base == "" || base == "." || base == ".." {
		return nil, fmt.Errorf("audit file %q: not the name of a file", o.Path)
	}
	dir, err := o.Dir, error(nil)
	if dir == nil {
		if err := os.MkdirAll(dirName, 0o750); err != nil {
			return nil, fmt.Errorf("audit directory: %w", err)
		}
		dir, err = os.OpenFile(dirName, os.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("audit directory: %w", err)
	}
	f := &Files{o: o, base: base, dir: dir}
	file, err := f.Descriptor()
	if err != nil {
		dir.Close()
		return nil, err
	}
	return f, file.Close()
}

// Close closes the directory; descriptors that were handed out stay usable.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dir.Close()
}

// Descriptor opens the file that has the audit's name, for appending, and makes
// it if there is none. The caller owns it. Errors wrap ErrUnsafe where the file
// is a link, has a second name, is no regular file, belongs to somebody else
// than root and the configured owner, or can be written by others.
func (f *Files) Descriptor() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.descriptor()
}

func (f *Files) descriptor() (*os.File, error) {
	// Between the two opens somebody may remove or make the file: a few tries.
	for range 3 {
		file, err := f.existing()
		if !errors.Is(err, unix.ENOENT) {
			return file, err
		}
		file, err = f.create(f.base)
		if !errors.Is(err, unix.EEXIST) {
			return file, err
		}
	}
	return nil, fmt.Errorf("audit file %s: it appears and disappears", f.o.Path)
}

// Size gives the bytes of the file that has the audit's name, 0 without one.
func (f *Files) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var st unix.Stat_t
	err := unix.Fstatat(f.fd(), f.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("audit file %s: %w", f.o.Path, err)
	}
	return st.Size, nil
}

// Rotate makes path → path.1, path.1 → path.2, …, drops the oldest, and gives
// the new path. The new file is made before anything is renamed, so that a full
// disk or a missing right changes nothing; a crash in between leaves at most a
// number or the name itself free, and no line is lost.
func (f *Files) Rotate() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.base + ".new"
	if err := f.unlink(next); err != nil {
		return nil, err // left by a crash in the middle of Rotate
	}
	file, err := f.create(next)
	if err != nil {
		return nil, err
	}
	if err := f.shift(next); err != nil {
		return nil, errors.Join(err, f.unlink(next), file.Close())
	}
	return file, nil
}

// shift renames all files by one and next into the place of the present one.
func (f *Files) shift(next string) error {
	free := 1 // the lowest number without a file
	for free <= f.o.MaxFiles && f.exists(f.numbered(free)) {
		free++
	}
	for n := min(free, f.o.MaxFiles); n >= 1; n-- {
		from := f.base
		if n > 1 {
			from = f.numbered(n - 1)
		}
		if err := f.rename(from, f.numbered(n)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if err := f.rename(next, f.base); err != nil {
		return err
	}
	if err := f.dropOld(); err != nil {
		return err
	}
	if err := f.dir.Sync(); err != nil {
		return fmt.Errorf("audit directory of %s: %w", f.o.Path, err)
	}
	return nil
}

// dropOld removes files beyond MaxFiles, of an earlier and larger setting.
func (f *Files) dropOld() error {
	for n := f.o.MaxFiles + 1; f.exists(f.numbered(n)); n++ {
		if err := f.unlink(f.numbered(n)); err != nil {
			return err
		}
	}
	return nil
}

func (f *Files) numbered(n int) string { return f.base + "." + strconv.Itoa(n) }

func (f *Files) create(name string) (*os.File, error) {
	// O_EXCL with O_CREAT does not follow a link in the last part (open(2)).
	fd, err := unix.Openat(f.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make audit file %s: %w", f.path(name), err)
	}
	file := os.NewFile(uintptr(fd), f.path(name))
	// The owner before the mode: chown clears nothing here, and until now only
	// this process could open it. fchmod sets what the umask withheld.
	if f.o.UID >= 0 || f.o.GID >= 0 {
		err = unix.Fchown(fd, f.o.UID, f.o.GID)
	}
	if err == nil {
		err = unix.Fchmod(fd, f.o.Mode)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make audit file %s: %w", f.path(name), err), f.unlink(name), file.Close())
	}
	return file, nil
}

// existing opens the present file, checked.
func (f *Files) existing() (*os.File, error) {
	// O_NONBLOCK: a FIFO in that place must not hold us up before it is refused.
	fd, err := unix.Openat(f.fd(), f.base, unix.O_WRONLY|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %s is a symbolic link; remove it or name another file", ErrUnsafe, f.o.Path)
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrUnsafe, f.o.Path)
	case err != nil:
		return nil, fmt.Errorf("open audit file %s: %w", f.o.Path, err)
	}
	file := os.NewFile(uintptr(fd), f.o.Path)
	if err := f.check(fd); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (f *Files) check(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("open audit file %s: %w", f.o.Path, err)
	}
	owner := int(st.Uid)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: %s is not a regular file", ErrUnsafe, f.o.Path)
	case st.Nlink > 1:
		return fmt.Errorf("%w: %s has a second name (%d links)", ErrUnsafe, f.o.Path, st.Nlink)
	case owner != 0 && owner != os.Geteuid() && owner != f.o.UID:
		return fmt.Errorf("%w: %s belongs to uid %d", ErrUnsafe, f.o.Path, owner)
	case st.Mode&0o002 != 0:
		return fmt.Errorf("%w: everybody may write to %s; chmod o-w it", ErrUnsafe, f.o.Path)
	}
	return nil
}

func (f *Files) exists(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(f.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

func (f *Files) rename(from, to string) error {
	if err := unix.Renameat(f.fd(), from, f.fd(), to); err != nil {
		return fmt.Errorf("rotate audit file %s to %s: %w", f.path(from), f.path(to), err)
	}
	return nil
}

func (f *Files) unlink(name string) error {
	err := unix.Unlinkat(f.fd(), name, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove audit file %s: %w", f.path(name), err)
	}
	return nil
}

func (f *Files) fd() int { return int(f.dir.Fd()) }

func (f *Files) path(name string) string { return filepath.Join(filepath.Dir(f.o.Path), name) }
