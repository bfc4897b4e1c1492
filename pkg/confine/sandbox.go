package confine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// changes are the Landlock rights of changing files, of ABI 2 (Linux 5.19);
// TRUNCATE came with ABI 3.
const changes = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
	unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
	unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
	unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER

// truncateLandlock is the ABI of 6.2.
const truncateLandlock = 3

// Sandbox limits the calling thread and all that it starts, for a process of
// ours that reads what strangers wrote: it can open no file for writing and make
// or remove none, trace nobody outside and, from Linux 6.12 on, neither signal
// anybody outside nor reach abstract sockets there; and it is under the system
// call filter of commands. Descriptors that it is given work as before. The
// thread needs no_new_privs or CAP_SYS_ADMIN. Errors wrap ErrNotSupported where
// the kernel lacks Landlock or seccomp.
func Sandbox() error {
	if err := landlockSupported(); err != nil {
		return failed("landlock", "", err)
	}
	if err := filterSupported(); err != nil {
		return failed("seccomp", "", err)
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: changes}
	if LandlockABI() >= truncateLandlock {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if ScopesAbstractSockets() {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	ruleset, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return failed("landlock", "create ruleset", e)
	}
	defer unix.Close(int(ruleset))
	if _, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); e != 0 {
		return failed("landlock", "restrict", e)
	}
	return installFilter()
}
