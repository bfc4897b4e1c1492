package workload

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Process is what /proc says of one.
type Process struct {
	PID int
	// Start is when it began, in clock ticks since boot: with PID it names
	// one process for as long as the host is up.
	Start uint64
	// UID and GID are the effective ones.
	UID, GID uint32
	// Comm is the kernel's short name, at most 15 bytes, safe as a label; the
	// process can change it.
	Comm string
	// Exe is the file that runs, "" where it cannot be read (kernel threads).
	Exe string
	// Cgroup is its cgroup2 path.
	Cgroup string
}

// LookUp reads a process from /proc. A pidfd taken before and asked after
// proves that every file was of the same process. Errors wrap ErrGone.
func LookUp(pid int) (Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return Process{}, pathError("process", strconv.Itoa(pid), err)
	}
	defer unix.Close(fd)
	p, err := readProcess(pid)
	if err != nil {
		return Process{}, err
	}
	if err := alive(fd); err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

// alive says whether the process of a pidfd has not been reaped. A zombie
// still holds its pid, so what was read is its own; a pidfd is readable from
// its death on, which asks for no right to signal it.
func alive(pidfd int) error {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil && err != unix.EINTR {
		return err
	}
	if fds[0].Revents != 0 {
		return ErrGone
	}
	return nil
}

func readProcess(pid int) (Process, error) {
	s, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	p := Process{PID: pid, Start: s.start, Comm: Label(s.comm)}
	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return Process{}, pathError("process", strconv.Itoa(pid), err)
	}
	if p.UID, p.GID, err = effectiveIDs(string(status)); err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	// Kernel threads have no file, and a caller may lack the right to see it:
	// it informs only.
	if exe, err := os.Readlink(procFile(pid, "exe")); err == nil {
		p.Exe = strings.TrimSuffix(exe, " (deleted)")
	}
	cgroup, err := os.ReadFile(procFile(pid, "cgroup"))
	if err != nil {
		return Process{}, pathError("process", strconv.Itoa(pid), err)
	}
	if p.Cgroup, err = ParseProcCgroup(string(cgroup)); err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

type stat struct {
	comm   string
	parent int
	start  uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return stat{}, pathError("process", strconv.Itoa(pid), err)
	}
	s, err := parseStat(string(data))
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return s, nil
}

// AgeOf gives how long ago a process started, and its parent.
func AgeOf(pid int) (age time.Duration, parent int, err error) {
	s, err := readStat(pid)
	if err != nil {
		return 0, 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, 0, err
	}
	const ticks = 100 // USER_HZ is 100 everywhere
	return time.Duration(now.Nano()) - time.Duration(s.start)*(time.Second/ticks), s.parent, nil
}

// parseStat reads proc_pid_stat(5). The name is in parentheses and may itself
// contain any of them: the last one ends it.
func parseStat(data string) (stat, error) {
	open, end := strings.IndexByte(data, '('), strings.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("stat %q has no name", data)
	}
	// The fields after the name begin with the third, the state.
	fields := strings.Fields(data[end+1:])
	const parentField, startField = 4 - 3, 22 - 3
	if len(fields) <= startField {
		return stat{}, fmt.Errorf("stat has %d fields after the name", len(fields))
	}
	parent, err := strconv.Atoi(fields[parentField])
	if err != nil {
		return stat{}, fmt.Errorf("stat: parent: %w", err)
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("stat: start time: %w", err)
	}
	return stat{comm: data[open+1 : end], parent: parent, start: start}, nil
}

// effectiveIDs reads "Uid:" and "Gid:" of proc_pid_status(5): real, effective,
// saved, file system.
func effectiveIDs(status string) (uid, gid uint32, err error) {
	found := 0
	for line := range strings.Lines(status) {
		key, values, _ := strings.Cut(line, ":")
		if key != "Uid" && key != "Gid" {
			continue
		}
		fields := strings.Fields(values)
		if len(fields) < 2 {
			return 0, 0, fmt.Errorf("status: %s has %d values", key, len(fields))
		}
		id, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("status: %s: %w", key, err)
		}
		if key == "Uid" {
			uid = uint32(id)
		} else {
			gid = uint32(id)
		}
		found++
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("status has %d of Uid and Gid", found)
	}
	return uid, gid, nil
}
