package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// minLandlock is the ABI of 5.19. In the first one a domain could not
	// rename or link files between directories at all.
	minLandlock = 2
	// scopeLandlock is the ABI of 6.12, the first with scopes.
	scopeLandlock = 6

	rulePathBeneath = 1 // LANDLOCK_RULE_PATH_BENEATH
)

// LandlockABI is the kernel's version of Landlock, 0 if it has none or it is
// switched off at boot.
func LandlockABI() int {
	v, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(v)
}

func landlockSupported() error {
	if abi := LandlockABI(); abi < minLandlock {
		return fmt.Errorf("landlock (ABI %d, need %d; CONFIG_SECURITY_LANDLOCK and `landlock` in the lsm= boot option): %w", abi, minLandlock, ErrNotSupported)
	}
	return nil
}

// ScopesAbstractSockets says whether the kernel can keep a command from
// abstract unix sockets of processes outside.
func ScopesAbstractSockets() bool { return LandlockABI() >= scopeLandlock }

// enterLandlock puts the thread into a domain. Whatever a domain handles, its
// processes cannot trace those outside: ptrace, process_vm_readv, pidfd_getfd
// and /proc/PID/mem, fd, environ are refused. The only right handled is REFER,
// and it is granted everywhere, as no domain may be empty and a domain that
// does not handle REFER forbids it: the command sees no difference in files.
// Handling a file system right also forbids mount, umount and pivot_root, so
// that what is mounted over the hidden sockets stays, whatever user namespace
// the command makes itself.
func enterLandlock(scope bool) error {
	const op = "landlock"
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_REFER}
	// Kernels before the scope accept the shorter struct only, or a longer
	// one whose rest is zero.
	if scope && ScopesAbstractSockets() {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	ruleset, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return failed(op, "create ruleset", e)
	}
	defer unix.Close(int(ruleset))
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(op, "/", err)
	}
	defer unix.Close(root)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_REFER, Parent_fd: int32(root)}
	if _, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, rulePathBeneath, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		return failed(op, "add rule", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); e != 0 {
		return failed(op, "restrict", e)
	}
	return nil
}
