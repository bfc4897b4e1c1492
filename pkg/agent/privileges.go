package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CheckPrivileges makes sure that the process is what a worker must be: not
// root, no further groups, empty capability sets, no new privileges. It asks the kernel
// rather than trusting whoever started us, and closes the last door: a process
// that is not dumpable cannot be traced by others of its uid. Any error must end
// the process before anything of a workload is read.
func CheckPrivileges() error {
	uid, euid, suid := unix.Getresuid()
	gid, egid, sgid := unix.Getresgid()
	if uid == 0 || uid != euid || uid != suid || gid == 0 || gid != egid || gid != sgid {
		return fmt.Errorf("worker: uids %d %d %d, gids %d %d %d: must be one that is not root", uid, euid, suid, gid, egid, sgid)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("worker: groups: %w", err)
	}
	// User= of a unit calls initgroups(3), which lists the primary group too.
	if slices.ContainsFunc(groups, func(g int) bool { return g != gid }) {
		return fmt.Errorf("worker: has groups %v: must have none but %d, its own", groups, gid)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	if err := checkStatus(string(status)); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("worker: not dumpable: %w", err)
	}
	return nil
}

// checkStatus looks at the fields of /proc/self/status (proc_pid_status(5)).
func checkStatus(status string) error {
	want := map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1",
	}
	var errs []error
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		w, checked := want[name]
		if !checked {
			continue
		}
		delete(want, name)
		if v := strings.TrimSpace(value); v != w {
			errs = append(errs, fmt.Errorf("worker: %s is %s, must be %s", name, v, w))
		}
	}
	for name := range want {
		errs = append(errs, fmt.Errorf("worker: the kernel does not tell %s", name))
	}
	return errors.Join(errs...)
}
