package agent

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lastCapability bounds the search for capabilities that the kernel knows; the
// kernel answers EINVAL beyond its last one (40 on Linux 6.1).
const lastCapability = 63

// DropPrivileges turns the process, which the keeper started as root, into the
// worker: its own uid and gid, no groups, empty capability sets (the bounding
// set too), no new privileges, not dumpable. It must be called before anything
// of a workload is read; any error must end the process.
//
// The calls act on every thread of the process (syscall.AllThreadsSyscall), so
// the binary must be built without cgo.
func DropPrivileges(uid, gid int) error {
	if uid <= 0 || gid <= 0 {
		return fmt.Errorf("drop privileges: uid %d, gid %d: the worker must not be root", uid, gid)
	}
	if os.Getuid() == 0 {
		if err := dropBounding(); err != nil {
			return err
		}
		// With keep-caps unset, leaving uid 0 empties permitted, effective and
		// ambient (capabilities(7)); inheritable is emptied below.
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("drop privileges: setgroups: %w", err)
		}
		if err := syscall.Setresgid(gid, gid, gid); err != nil {
			return fmt.Errorf("drop privileges: setresgid: %w", err)
		}
		if err := syscall.Setresuid(uid, uid, uid); err != nil {
			return fmt.Errorf("drop privileges: setresuid: %w", err)
		}
	}
	if err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("drop privileges: no_new_privs: %w", err)
	}
	if err := prctl(unix.PR_SET_DUMPABLE, 0); err != nil {
		return fmt.Errorf("drop privileges: dumpable: %w", err)
	}
	return checkPrivileges(uid, gid)
}

func prctl(option, arg uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func dropBounding() error {
	for c := uintptr(0); c <= lastCapability; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil {
			return nil // beyond the kernel's last capability
		}
		if err := prctl(unix.PR_CAPBSET_DROP, c); err != nil {
			return fmt.Errorf("drop privileges: bounding set, capability %d: %w", c, err)
		}
	}
	return nil
}

// checkPrivileges asks the kernel what is left, rather than trusting the calls.
func checkPrivileges(uid, gid int) error {
	if u, e, s := unix.Getresuid(); u != uid || e != uid || s != uid {
		return fmt.Errorf("drop privileges: uids are %d %d %d, want %d", u, e, s, uid)
	}
	if r, e, s := unix.Getresgid(); r != gid || e != gid || s != gid {
		return fmt.Errorf("drop privileges: gids are %d %d %d, want %d", r, e, s, gid)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("drop privileges: capget: %w", err)
	}
	for _, d := range data {
		if d.Effective|d.Permitted|d.Inheritable != 0 {
			return fmt.Errorf("drop privileges: capabilities are left: %+v", data)
		}
	}
	return nil
}
