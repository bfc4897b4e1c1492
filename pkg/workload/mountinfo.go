package workload

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// A Mount is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	// ID is unique among the mounts that exist now; the kernel reuses it.
	ID int
	// Root is the directory of the file system that is mounted; a cgroup
	// namespace shows cgroups above its own root as "/..".
	Root string
	// Point is where it is mounted, relative to the reader's root.
	Point string
	// Type is the file system's type, for example "cgroup2".
	Type string
}

// maxMountinfoLine bounds one line: two paths, whose bytes mountinfo may write
// as four characters each, and the options.
const maxMountinfoLine = 64 << 10

// ParseMountinfo reads mount lines. A line that is not in the format of
// proc_pid_mountinfo(5) is an error naming its number.
func ParseMountinfo(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxMountinfoLine)
	for n := 1; s.Scan(); n++ {
		m, err := parseMount(s.Text())
		if err != nil {
			return nil, fmt.Errorf("mountinfo line %d: %w", n, err)
		}
		mounts = append(mounts, m)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	return mounts, nil
}

// Mounts are the mounts of the calling thread's mount namespace: a locked
// thread that called unshare(2) sees its own.
func Mounts() ([]Mount, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseMountinfo(f)
}

var errMountFields = errors.New("fewer fields than a mount has")

// parseMount reads "36 35 98:0 /mnt1 /mnt2 rw master:1 - ext3 /dev/root rw".
// The fields before the lone dash vary in number.
func parseMount(line string) (Mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return Mount{}, errMountFields
	}
	fields := strings.Fields(before)
	if len(fields) < 6 {
		return Mount{}, errMountFields
	}
	id, err := strconv.Atoi(fields[0])
	if err != nil {
		return Mount{}, fmt.Errorf("mount id %q: %w", fields[0], errors.Unwrap(err))
	}
	kind, _, _ := strings.Cut(after, " ")
	if kind == "" {
		return Mount{}, errMountFields
	}
	return Mount{
		ID:    id,
		Root:  unescapeOctal(fields[3]),
		Point: unescapeOctal(fields[4]),
		Type:  unescapeOctal(kind),
	}, nil
}

// unescapeOctal undoes the \ooo that the kernel writes for space, tab, newline
// and backslash (mangle_path).
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
