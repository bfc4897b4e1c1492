package confine

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here go to the kernel directly: package syscall would make them on
// all threads, and the others vanish at execve. Changing one thread only also
// keeps a failure from being half applied to threads that still serve.

func prctlPointer(option int, arg *int32) error {
	if _, _, e := unix.RawSyscall(unix.SYS_PRCTL, uintptr(option), uintptr(unsafe.Pointer(arg)), 0); e != 0 {
		return e
	}
	return nil
}

// noNewPrivileges makes setuid bits and file capabilities mean nothing from
// here on, for the command and all it starts (3.5). It cannot be undone.
func noNewPrivileges() error {
	return failed("no_new_privs", "", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// maxCapability bounds the search for the kernel's last capability: the sets
// have 64 bits.
const maxCapability = 63

// dropBounding empties the bounding set, without which uid 0 would get every
// capability back at execve, and the ambient set.
func dropBounding() error {
	for c := range uintptr(maxCapability + 1) {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > unix.CAP_SYS_ADMIN {
			break // past the last one that this kernel has
		}
		if err != nil {
			return failed("drop bounding capability", strconv.Itoa(int(c)), err)
		}
	}
	return failed("clear ambient capabilities", "", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
}

// become sets all ids for good.
func become(uid, gid int, groups []int) error {
	list := make([]uint32, len(groups))
	for i, g := range groups {
		if g < 0 || uint64(g) >= 1<<32-1 {
			return failed("set groups", strconv.Itoa(g), unix.EINVAL)
		}
		list[i] = uint32(g)
	}
	if uid < 0 || uint64(uid) >= 1<<32-1 || gid < 0 || uint64(gid) >= 1<<32-1 {
		// 2^32-1 means "leave as it is" to the kernel.
		return failed("set user", strconv.Itoa(uid)+":"+strconv.Itoa(gid), unix.EINVAL)
	}
	var first unsafe.Pointer
	if len(list) > 0 {
		first = unsafe.Pointer(&list[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(first), 0); e != 0 {
		return failed("set groups", "", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return failed("set group", strconv.Itoa(gid), e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return failed("set user", strconv.Itoa(uid), e)
	}
	return nil
}

// dropCapabilities empties the effective, permitted and inheritable sets. A
// change from root to a user has emptied the first two already; uid 0 keeps
// them without this.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return failed("drop capabilities", "", unix.Capset(&header, &none[0]))
}
