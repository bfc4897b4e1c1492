package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe does one thing from inside and prints "ok" or the name of the error,
// one line for each thing tried.
func probe(name string, args []string) int {
	switch name {
	case "socket": // FAMILY TYPE …
		for i := 0; i+1 < len(args); i += 2 {
			fd, err := unix.Socket(atoi(args[i]), atoi(args[i+1]), 0)
			report("socket "+args[i], err)
			if err == nil {
				unix.Close(fd)
			}
		}
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		report("socketpair unix", err)
		_, err = unix.Socketpair(unix.AF_TIPC, unix.SOCK_STREAM, 0)
		report("socketpair tipc", err)
		// The kernel looks at the low half of the argument only, and so must
		// the filter.
		_, _, e := unix.RawSyscall(unix.SYS_SOCKET, 1<<32|unix.AF_PACKET, unix.SOCK_RAW, 0)
		report("socket high", errnoOf(e))
		_, _, e = unix.RawSyscall(x32Bit|unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW, 0)
		report("socket x32", errnoOf(e))
		_, _, e = unix.RawSyscall(unix.SYS_IOCTL, uintptr(devNull()), unix.TIOCSTI, 0)
		report("ioctl TIOCSTI", errnoOf(e))
		_, _, e = unix.RawSyscall(unix.SYS_IOCTL, uintptr(devNull()), unix.TCGETS, 0)
		report("ioctl TCGETS", errnoOf(e))
	case "uring":
		var params [120]byte
		_, _, e := unix.RawSyscall(ioUringSetup, 1, uintptr(unsafe.Pointer(&params)), 0)
		report("setup", errnoOf(e))
		_, _, e = unix.RawSyscall6(ioUringEnter, ^uintptr(0), 0, 0, 0, 0, 0)
		report("enter", errnoOf(e))
		_, _, e = unix.RawSyscall6(ioUringRegister, ^uintptr(0), 0, 0, 0, 0, 0)
		report("register", errnoOf(e))
	case "key":
		kind, name, info := []byte("user\x00"), []byte("debug:sallyport\x00"), []byte("\x00")
		_, _, e := unix.RawSyscall6(unix.SYS_REQUEST_KEY, uintptr(unsafe.Pointer(&kind[0])), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&info[0])), 0, 0, 0)
		report("request_key", errnoOf(e))
	case "trace": // PID FD ADDRESS
		probeTrace(atoi(args[0]), atoi(args[1]), args[2])
	case "dial": // ADDRESS …
		for _, a := range args {
			c, err := net.Dial("unix", a)
			report("dial", err)
			if err == nil {
				c.Close()
			}
		}
	case "files":
		probeFiles(args[0])
	case "write": // FILE …
		for _, f := range args {
			fd, err := unix.Open(f, unix.O_WRONLY, 0)
			if err == nil {
				_, err = unix.Write(fd, []byte("0"))
				unix.Close(fd)
			}
			report("write", err)
			report("mkdir", unix.Mkdir(f+".d", 0o755))
		}
	case "namespace": // COVER CGROUP
		probeNamespace(args)
	case "ids":
		var r, e, s int
		r, e, s = unix.Getresuid()
		fmt.Println("uid", r, e, s)
	case "setuid":
		report("setuid", errnoOf(rawSetuid(0)))
	case "at": // FD PATH: through an inherited directory
		fd, err := unix.Openat(atoi(args[0]), args[1], unix.O_RDONLY, 0)
		report("openat", err)
		if err == nil {
			buf := make([]byte, 64)
			n, err := unix.Read(fd, buf)
			if err == nil {
				fmt.Printf("%s\n", buf[:n])
			}
		}
	case "getfl":
		flags, err := unix.FcntlInt(uintptr(atoi(args[0])), unix.F_GETFD, 0)
		report("fcntl "+strconv.Itoa(flags), err)
	case "caller":
		h, err := ThisHost()
		if err == nil {
			var c Caller
			if c, err = CallingUser(h, ""); err == nil {
				err = json.NewEncoder(os.Stdout).Encode(c)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "renew": // itself, which is not confined
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err == nil {
			err = Renew(fd, &Spec{Hide: []Hidden{{Path: args[0]}}})
		}
		fmt.Println(errors.Is(err, ErrNotConfined), err)
	case "spawn": // the rest, as a child
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		must(cmd.Run())
	case "deathsig":
		var sig int32
		err := prctlPointer(unix.PR_GET_PDEATHSIG, &sig)
		report("deathsig "+strconv.Itoa(int(sig)), err)
	default:
		fmt.Fprintln(os.Stderr, "no such probe", name)
		return 98
	}
	return 0
}

func rawSetuid(uid int) syscall.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
	return e
}

// probeTrace tries every way into another process.
func probeTrace(pid, fd int, address string) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		report("pidfd_open", err)
		return
	}
	_, err = unix.PidfdGetfd(pidfd, fd, 0)
	report("pidfd_getfd", err)
	at, err := strconv.ParseUint(address, 0, 64)
	if err != nil {
		report("address", err)
		return
	}
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: uintptr(at), Len: 8}}
	_, err = unix.ProcessVMReadv(pid, local, remote, 0)
	report("process_vm_readv", err)
	_, err = unix.ProcessVMWritev(pid, local, remote, 0)
	report("process_vm_writev", err)
	for _, name := range []string{"mem", "environ", "maps"} {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, name), os.O_RDONLY, 0)
		if err == nil {
			// mem can be opened and answers nothing on some kernels; the
			// right is asked at open on all.
			f.Close()
		}
		report(name, err)
	}
	_, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid))
	report("fd", err)
	_, err = os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
	report("root", err)
	_, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	report("cwd", err)
	report("ptrace", unix.PtraceSeize(pid))
}

// probeFiles does what a domain that forgets REFER forbids.
func probeFiles(dir string) {
	for _, d := range []string{"/a", "/b"} {
		if err := os.Mkdir(dir+d, 0o700); err != nil {
			report("mkdir", err)
		}
	}
	report("create", os.WriteFile(dir+"/a/f", []byte("x"), 0o600))
	report("link", os.Link(dir+"/a/f", dir+"/b/g"))
	report("rename", os.Rename(dir+"/a/f", dir+"/b/f"))
	report("rename directory", os.Rename(dir+"/a", dir+"/b/a"))
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	report("tmpfile", err)
	if err == nil {
		report("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/b/t", unix.AT_SYMLINK_FOLLOW))
	}
	report("fifo", unix.Mkfifo(dir+"/b/p", 0o600))
	l, err := net.Listen("unix", dir+"/b/s")
	report("unix socket", err)
	if err == nil {
		l.Close()
	}
}

// probeNamespace tries to undo the mounts with the capabilities of a user
// namespace of its own. A multi-threaded process cannot make one: sh does.
func probeNamespace(args []string) {
	report("umount", unix.Unmount(args[0], unix.MNT_DETACH))
	report("mount", unix.Mount("none", args[1], "cgroup2", 0, ""))
	report("remount", unix.Mount("", args[2], "", unix.MS_REMOUNT|unix.MS_BIND, ""))
}

func devNull() int {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

func report(what string, err error) {
	var e syscall.Errno
	switch {
	case err == nil:
		fmt.Println(what + ": ok")
	case errors.As(err, &e):
		fmt.Println(what + ": " + unix.ErrnoName(e))
	default:
		fmt.Println(what + ": " + strings.ReplaceAll(err.Error(), "\n", " "))
	}
}

// must reports on standard error and leaves the output to the child.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func errnoOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(97)
	}
	return n
}
