package confine

import (
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxAncestors bounds the walk to sudo: it is the parent, or with use_pty
	// its monitor is, or a shell or env(1) stands between.
	maxAncestors = 16
	// maxEnviron bounds what is read of an environment; the kernel allows
	// 6 MiB at most (3/4 of _STK_LIM).
	maxEnviron = 6 << 20
)

// SudoEnviron is the environment with which the nearest sudo above this
// process was started, which is the calling user's. A process counts as sudo
// only if its file is named so, belongs to root and has the setuid bit: no
// user can make such a file.
func SudoEnviron() ([]string, bool) {
	pid := os.Getppid()
	for range maxAncestors {
		if pid <= 1 {
			return nil, false
		}
		a, err := openAncestor(pid)
		if err != nil {
			return nil, false
		}
		if a.isSudo() {
			environ, err := a.environ()
			a.dir.Close()
			return environ, err == nil
		}
		pid, err = a.parent()
		a.dir.Close()
		if err != nil {
			return nil, false
		}
	}
	return nil, false
}

// An ancestor is a process by its directory in /proc: once open, that never
// shows another process that got the same pid.
type ancestor struct{ dir *os.File }

func openAncestor(pid int) (ancestor, error) {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid))
	return ancestor{dir}, err
}

func (a ancestor) isSudo() bool {
	var st unix.Stat_t
	if err := unix.Fstatat(int(a.dir.Fd()), "exe", &st, 0); err != nil {
		return false
	}
	if st.Uid != 0 || st.Mode&unix.S_ISUID == 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(a.dir.Fd()), "exe", buf)
	if err != nil {
		return false
	}
	switch path.Base(strings.TrimSuffix(string(buf[:n]), " (deleted)")) {
	case "sudo", "sudo-rs":
		return true
	}
	return false
}

func (a ancestor) environ() ([]string, error) {
	data, err := a.read("environ", maxEnviron)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(data, "\x00"), "\x00"), nil
}

func (a ancestor) parent() (int, error) {
	const maxStatus = 64 << 10
	data, err := a.read("status", maxStatus)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(data) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, unix.ESRCH
}

func (a ancestor) read(name string, limit int64) (string, error) {
	fd, err := unix.Openat(int(a.dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return string(data), err
}
