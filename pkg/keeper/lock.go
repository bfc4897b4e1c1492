package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFile locks the file at path, and makes it and its directory where they
// are missing. The lock ends with the file's last descriptor, however its owner
// ends. Without wait, a lock that another process has gives EWOULDBLOCK.
func lockFile(path string, wait bool) (*os.File, error) {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the last owner removed the directory just now
		}
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// The last owner may have removed the file between our open and our lock:
		// then somebody else may hold a lock on a new one.
		held, err1 := f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, named) {
			return f, nil
		}
		f.Close()
	}
}

// withHostLock runs f while no other keeper sets up or takes down what
// instances share: the bpffs mount and the runtime directory.
func withHostLock(runtimeDir string, f func() error) error {
	lock, err := lockFile(filepath.Join(runtimeDir, hostLock), true)
	if err != nil {
		return err
	}
	defer lock.Close()
	return f()
}

// hostLock is the name of the lock file in the runtime directory.
const hostLock = ".lock"

// releaseRuntime removes the runtime directory if only the host lock is left.
// The caller holds that lock.
func releaseRuntime(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != hostLock {
		return
	}
	os.Remove(filepath.Join(dir, hostLock))
	os.Remove(dir)
}
