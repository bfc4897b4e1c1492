// Package wholefile reads and writes regular files of bounded size in one piece: a
// reader sees the old content or the new one, also after the power has failed.
package wholefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotRegular is wrapped for a directory, a pipe, a device or a socket.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge is wrapped for a file beyond the reader's bound.
	ErrTooLarge = errors.New("too large")
)

// Open opens a file for reading. What is not a regular file is ErrNotRegular, and is
// never waited for: without O_NONBLOCK the open of a pipe returns when somebody
// writes to it (fifo(7)). flags are added to those of open(2): unix.O_NOFOLLOW
// refuses a symbolic link.
func Open(path string, flags int) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := regular(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func regular(f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: ErrNotRegular}
	}
	return info, err
}

// ReadAll reads what is left of an open file. More than most bytes are ErrTooLarge,
// anything but a regular file is ErrNotRegular.
func ReadAll(f *os.File, most int64) ([]byte, error) {
	if _, err := regular(f); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("%w: more than %d bytes", ErrTooLarge, most)}
	}
	return data, nil
}

// Read is Open, following symbolic links, and ReadAll.
func Read(path string, most int64) ([]byte, error) {
	f, _, err := Open(path, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, most)
}

// Write puts a file with exactly this mode, whatever the umask, in place of what has
// its name, and returns when content and name are on disk. On an error before the
// name is changed the old file is as it was; nothing else is left in its directory,
// which must exist.
func Write(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it has its name
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Rename renames a file and returns when the new name is on disk (fsync(2): that of
// the file does not bring its directory's entry there). Both names must be in one
// directory.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	d, err := os.OpenFile(filepath.Dir(to), os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
