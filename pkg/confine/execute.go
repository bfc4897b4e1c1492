package confine

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultPath is what execvp(3) searches where PATH is not set
// (confstr(_CS_PATH)).
const defaultPath = "/bin:/usr/bin"

// execute replaces the process, with the rules of execvp(3). syscall.Exec also
// gives RLIMIT_NOFILE back its soft limit, which the Go runtime raised.
func execute(s *Spec) error {
	if s.Path != "" {
		return failed(opExec, s.Path, run(s.Path, s))
	}
	name := s.Argv[0]
	if name == "" {
		return failed(opExec, `""`, fs.ErrNotExist)
	}
	if strings.Contains(name, "/") {
		return failed(opExec, name, run(name, s))
	}
	var denied error
	for _, dir := range strings.Split(searchPath(s.Env), ":") {
		if dir == "" {
			dir = "." // POSIX: an empty prefix is the current directory
		}
		err := run(dir+"/"+name, s)
		switch {
		case errors.Is(err, unix.EACCES):
			denied = err // there may be one further on that runs
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESTALE),
			errors.Is(err, unix.ENODEV), errors.Is(err, unix.ETIMEDOUT):
		default:
			return failed(opExec, name, err)
		}
	}
	if denied != nil {
		return failed(opExec, name, denied)
	}
	return failed(opExec, name, notInPath{})
}

// run tries one file. A script without an interpreter line is given to the
// shell, as execvp(3) and every shell do.
func run(file string, s *Spec) error {
	err := syscall.Exec(file, s.Argv, s.Env)
	if errors.Is(err, unix.ENOEXEC) {
		argv := append([]string{"/bin/sh", file}, s.Argv[1:]...)
		if syscall.Exec("/bin/sh", argv, s.Env) == nil {
			panic("confine: execve returned without an error")
		}
	}
	return err
}

// searchPath is the value of PATH, of which the last one counts.
func searchPath(env []string) string {
	path := defaultPath
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	return path
}
