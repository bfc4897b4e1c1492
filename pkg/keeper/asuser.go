package keeper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asUser opens files for reading with the rights of a user who chose their
// names: what that user may not read is not read for it, and a path that leads
// through file systems of the user's own leads root nowhere.
func asUser(uid, gid int, groups []int) func(path string) (*os.File, error) {
	return func(path string) (f *os.File, err error) {
		const flags = os.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
		if uid == 0 {
			return os.OpenFile(path, flags, 0)
		}
		err = withRights(uid, gid, groups, func() (err error) {
			f, err = os.OpenFile(path, flags, 0)
			return err
		})
		return f, err
	}
}

// withRights runs f on a thread that has the file system rights of a user and
// nobody else's. The thread ends with f: no other code ever runs on it. Of the
// capabilities those over files go with the uid (credentials(7), capabilities(7)).
func withRights(uid, gid int, groups []int, f func() error) error {
	list := make([]uint32, len(groups))
	for i, g := range groups {
		list[i] = uint32(g)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- func() error {
			// The raw call: that of package syscall changes every thread.
			if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(unsafe.Pointer(unsafe.SliceData(list))), 0); e != 0 {
				return fmt.Errorf("set groups: %w", e)
			}
			if err := unix.Setfsgid(gid); err != nil {
				return fmt.Errorf("set group: %w", err)
			}
			if err := unix.Setfsuid(uid); err != nil {
				return fmt.Errorf("set user: %w", err)
			}
			// These two calls tell no failure but by asking again (setfsuid(2)).
			u, err1 := unix.SetfsuidRetUid(-1)
			g, err2 := unix.SetfsgidRetGid(-1)
			if err := errors.Join(err1, err2); err != nil || u != uid || g != gid {
				return fmt.Errorf("the rights of uid %d, gid %d were not taken on: %w", uid, gid, errors.Join(err, unix.EPERM))
			}
			return f()
		}()
	}()
	return <-done
}
