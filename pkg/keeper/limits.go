package keeper

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limitNames are the lines of /proc/PID/limits in the order of their numbers,
// from RLIMIT_CPU on (fs/proc/base.c, lnames).
var limitNames = [...]string{
	"Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set",
	"Max processes", "Max open files", "Max locked memory", "Max address space", "Max file locks", "Max pending signals",
	"Max msgqueue size", "Max nice priority", "Max realtime priority", "Max realtime timeout",
}

// parseLimits reads /proc/PID/limits. prlimit(2) tells the same, but for another
// user's process only with CAP_SYS_RESOURCE, which hardened hosts take from
// root. A limit that is missing is an error: a command must not get more than
// its caller has.
func parseLimits(text string) ([]unix.Rlimit, error) {
	limits := make([]unix.Rlimit, len(limitNames))
	for i, name := range limitNames {
		values, err := limitValues(text, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		limits[i] = values
	}
	return limits, nil
}

func limitValues(text, name string) (unix.Rlimit, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+" ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			break
		}
		soft, err := limitValue(fields[0])
		if err != nil {
			return unix.Rlimit{}, err
		}
		hard, err := limitValue(fields[1])
		return unix.Rlimit{Cur: soft, Max: hard}, err
	}
	return unix.Rlimit{}, fmt.Errorf("not told by the kernel")
}

func limitValue(s string) (uint64, error) {
	if s == "unlimited" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// withFiles puts back the soft limit of open files that the caller was started
// with: the Go runtime raised it, as far as the hard one allows.
func withFiles(limits []unix.Rlimit, soft uint64) {
	if l := &limits[unix.RLIMIT_NOFILE]; soft > 0 && soft < l.Cur {
		l.Cur = soft
	}
}

// applyLimits sets the limits of a child, those that differ from ours: raising a
// hard limit needs CAP_SYS_RESOURCE.
func applyLimits(pid int, limits []unix.Rlimit) error {
	for r, l := range limits {
		if err := applyLimit(pid, r, l); err != nil {
			return err
		}
	}
	return nil
}

// applyLimit sets one; pid 0 is this process.
func applyLimit(pid, r int, l unix.Rlimit) error {
	var now unix.Rlimit
	if err := unix.Prlimit(pid, r, nil, &now); err == nil && now == l {
		return nil
	}
	if err := unix.Prlimit(pid, r, &l, nil); err != nil {
		return fmt.Errorf("%s %d:%d: %w", limitNames[r], l.Cur, l.Max, err)
	}
	return nil
}
